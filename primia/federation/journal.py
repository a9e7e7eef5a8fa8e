"""What a site remembers of a run's sums, so that no second one can be taken over other sites.

Two sums of the same contributions over different sites tell, by subtraction, what one site added. A round that is repeated after a
crash has the same contributions: so the site writes down which sites a sum is over before it helps to open it, and helps with no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from primia.errors import ProtocolError
from primia.files import private_folder

Key = tuple[str, int, str]


class Journal:
    """An append-only file of JSON lines, mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[Key, tuple[str, ...]] | None = None

    def agree(self, run: str, round_: int, purpose: str, sites: Iterable[str]) -> None:
        """Remember the sites of a sum, on disk when this returns.

        Raises:
            ProtocolError: others were agreed on before.
        """
        key, names, known = (run, round_, purpose), tuple(sorted(sites)), self._read()
        if key not in known:
            self._append({"run": run, "round": round_, "purpose": purpose, "sites": names})
            known[key] = names
        elif known[key] != names:
            differ = ", ".join(sorted(set(known[key]) ^ set(names)))
            raise ProtocolError(
                f"{purpose} of round {round_} was agreed on with other sites before ({differ} differ): opening both sums would tell what "
                "they add; bring the same sites back, or start a new run"
            )

    def _read(self) -> dict[Key, tuple[str, ...]]:
        if self._known is None:
            lines = self._path.read_text().splitlines() if self._path.exists() else []
            entries = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be cut by a crash
            self._known = {(entry["run"], entry["round"], entry["purpose"]): tuple(entry["sites"]) for entry in entries}
        return self._known

    def _append(self, entry: dict[str, object]) -> None:
        private_folder(self._path.parent)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "a") as file:  # noqa: PTH123 - by descriptor
            file.write("\n" * (self._path.stat().st_size > 0) + json.dumps(entry))
            file.flush()
            os.fsync(descriptor)
