"""Checkpoints: everything that makes a resumed run give, bit for bit, the model of an uninterrupted one.

All random choices are derived from the seed, the site and the round, so there are no generator states to
keep. A checkpoint is a safetensors file with the vectors and, written last, a JSON file with the rest and
the checksum of the vectors: a checkpoint without a valid pair is skipped in favour of the one before.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, sleep

from safetensors import SafetensorError
from safetensors.numpy import load

from primia.errors import RunError
from primia.federation.server import State
from primia.federation.update import GlobalModel
from primia.files import atomic_text, atomic_vectors

_NAME = re.compile(r"round-(\d+)\.json")
_SERVER = "server."
_WRITTEN_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Best:
    """The best model by validation MCC, and its validation metrics, pooled and by site."""

    model: GlobalModel
    mcc: float
    validation: Mapping[str, object]
    sites: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Progress:
    """Counts that go on across a resume: bytes a site, seconds a phase, faults, validations since the best.

    ``range``: largest change of a parameter that secure aggregation holds in the next round; 0 before the first one. ``privacy``: each
    site's last statement of what it has spent. ``fewest``: the fewest sites whose updates a round's sum was over.
    """

    validations_since_best: int = 0
    up_bytes: Mapping[str, int] = field(default_factory=dict)
    down_bytes: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[Mapping[str, object], ...] = ()
    range: float = 0.0
    fewest: int = 0
    privacy: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """State of a run after ``model.round`` rounds."""

    model: GlobalModel
    server: State = field(default_factory=dict)
    best: Best | None = None
    progress: Progress = Progress()


class Checkpoints:
    """Checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._best_entry: dict[str, object] = {}

    def write(self, state: RunState) -> None:
        """Write ``state``, then drop checkpoints beyond those to keep.

        Raises:
            RunError: it cannot be written (full disk, unwritable folder); those before are still there.
        """
        self._make_folder()
        vectors = {"parameters": state.model.parameters, "buffers": state.model.buffers}
        vectors |= {_SERVER + name: value for name, value in state.server.items()}
        document: dict[str, object] = {
            "round": state.model.round,
            "vectors": self._write_vectors(f"round-{state.model.round:06d}.safetensors", vectors),
            "progress": asdict(state.progress),
            "best": self._write_best(state.best) if state.best else None,
        }
        atomic_text(self._path(state.model.round), json.dumps(document, indent=1))
        self._prune()

    def rounds(self) -> list[int]:
        """Rounds that have a checkpoint, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name)))

    def load_latest(self) -> tuple[RunState | None, list[str]]:
        """The newest checkpoint that is whole, and a line for each newer one that is not; None where there is none at all.

        Newer ones that are not whole are removed.

        Raises:
            RunError: there are checkpoints, but none is whole.
        """
        complaints: list[str] = []
        broken: list[int] = []
        for round_ in reversed(self.rounds()):
            try:
                state = self._read(round_)
            except (RunError, OSError, ValueError, KeyError, SafetensorError) as error:
                complaints.append(f"checkpoint of round {round_} cannot be used ({error}); falling back to the one before")
                broken.append(round_)
                continue
            for useless in broken:
                self._path(useless).unlink()
            return state, complaints
        if broken:
            raise RunError(f"no checkpoint in {self._folder} is whole: {complaints[0].partition(';')[0]}; start a new run")
        return None, complaints

    def copy(self, round_: int, to: Path) -> None:
        """Copy the newest checkpoint, which is to be that of ``round_``; waits for it where it is still being written.

        Raises:
            RunError: it does not come, or another one is newer.
        """
        end = monotonic() + _WRITTEN_S
        while not (rounds := self.rounds()) or rounds[-1] < round_:
            if monotonic() > end:
                raise RunError(f"{self._folder} has no checkpoint of round {round_}")
            sleep(_POLL_S)
        document = self._document(round_)
        to.mkdir(parents=True)
        for entry in (document["vectors"], document["best"] and document["best"]["vectors"]):
            if entry:
                shutil.copy(self._folder / entry["file"], to)
        shutil.copy(self._path(round_), to)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {self._folder}: {error.strerror}") from error

    def _write_best(self, best: Best) -> dict[str, object]:
        name = f"best-{best.model.round:06d}.safetensors"
        if self._best_entry.get("file") != name:
            self._best_entry = self._write_vectors(name, {"parameters": best.model.parameters, "buffers": best.model.buffers})
        return {
            "round": best.model.round,
            "mcc": best.mcc,
            "validation": best.validation,
            "sites": best.sites,
            "vectors": self._best_entry,
        }

    def _write_vectors(self, name: str, vectors: State) -> dict[str, object]:
        path = self._folder / name
        atomic_vectors(path, vectors)
        return {"file": name, "bytes": path.stat().st_size, "crc32": _checksum(vectors)}

    def _read(self, round_: int) -> RunState:
        document = self._document(round_)
        vectors = self._read_vectors(document["vectors"])
        best = document["best"]
        progress = document["progress"]
        return RunState(
            model=GlobalModel(round_, vectors["parameters"], vectors["buffers"]),
            server={name.removeprefix(_SERVER): value for name, value in vectors.items() if name.startswith(_SERVER)},
            best=self._read_best(best) if best else None,
            progress=Progress(**(progress | {"faults": tuple(progress["faults"])})),
        )

    def _read_best(self, best: dict[str, object]) -> Best:
        vectors = self._read_vectors(best["vectors"])  # type: ignore[arg-type]
        self._best_entry = best["vectors"]  # type: ignore[assignment]
        model = GlobalModel(best["round"], vectors["parameters"], vectors["buffers"])  # type: ignore[arg-type]
        return Best(model, best["mcc"], best["validation"], best["sites"])  # type: ignore[arg-type]

    def _read_vectors(self, entry: Mapping[str, object]) -> State:
        path = self._folder / str(entry["file"])
        data = path.read_bytes()
        if len(data) != entry["bytes"]:
            raise RunError(f"{path.name} has {len(data)} bytes instead of {entry['bytes']}")
        vectors: State = load(data)
        if _checksum(vectors) != entry["crc32"]:
            raise RunError(f"{path.name} does not match its checksum")
        return vectors

    def _best_file(self, round_: int) -> str:
        """The best model's file that a checkpoint names; empty where it names none or cannot be read."""
        try:
            best = self._document(round_)["best"]
        except (OSError, ValueError, KeyError):
            return ""
        return str(best["vectors"]["file"]) if best else ""

    def _document(self, round_: int) -> dict:  # type: ignore[type-arg]
        return json.loads(self._path(round_).read_text())  # type: ignore[no-any-return]

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:06d}.json"

    def _prune(self) -> None:
        kept = self.rounds()[-self._keep :]
        names = {f"round-{round_:06d}{suffix}" for round_ in kept for suffix in (".json", ".safetensors")}
        names |= {name for round_ in kept if (name := self._best_file(round_))}
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink()


def _checksum(vectors: State) -> int:
    """CRC-32 over all vectors in the order of their names."""
    checksum = 0
    for name in sorted(vectors):
        checksum = zlib.crc32(vectors[name].data, checksum)
    return checksum
