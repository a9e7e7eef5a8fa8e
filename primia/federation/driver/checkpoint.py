"""Checkpoints: everything that makes a resumed run give, bit for bit, the model of an uninterrupted one.

All random choices are derived from the seed, the site and the round, so there are no generator states to
keep. A checkpoint is a safetensors file with the vectors and, written last, a JSON file with the rest and
the checksum of the vectors: a checkpoint without a valid pair is skipped in favour of the one before.
"""

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from primia.errors import RunError
from primia.federation.driver.server_optimizer import State
from primia.federation.update import GlobalModel
from primia.files import atomic_bytes, atomic_text, atomic_vectors, own_folder, private_folder
from primia.untrusted.documents import read_object, validated
from primia.untrusted.files import Unusable, is_real_folder, printable, read_file
from primia.untrusted.tensors import LIMIT, read_tensors

_NAME = re.compile(r"round-(\d{6,9})\.json", re.ASCII)
_VECTORS = r"^(round|best)-[0-9]{6,9}\.safetensors$"
_OURS = re.compile(r"(round|best)-\d{6,9}\.(json|safetensors)|\.(round|best)-.*\.tmp", re.ASCII)
"""Files that are removed when they are not needed any more; others are left alone."""
_SERVER = "server."
Count = Annotated[int, Field(ge=0, lt=2**63)]
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

    validations_since_best: Count = 0
    up_bytes: Mapping[str, Count] = field(default_factory=dict)
    down_bytes: Mapping[str, Count] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[Mapping[str, object], ...] = ()
    range: Annotated[float, Field(ge=0.0)] = 0.0
    fewest: Count = 0
    privacy: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """State of a run after ``model.round`` rounds."""

    model: GlobalModel
    server: State = field(default_factory=dict)
    best: Best | None = None
    progress: Progress = Progress()

    def check_fit(self, parameters: int, buffers: int) -> None:
        """Raise :class:`RunError` unless all vectors are of a model with so many parameters and buffers."""
        models = [self.model, *([self.best.model] if self.best else [])]
        if any((model.parameters.size, model.buffers.size) != (parameters, buffers) for model in models) or any(
            vector.shape != self.model.parameters.shape for vector in self.server.values()
        ):
            raise RunError(
                "the checkpoint is of another model than these settings make; put the folder's config.ini back, or start a new run"
            )


class _Part(BaseModel):
    """A part of a checkpoint's document; fields that later versions add are passed over."""

    model_config = ConfigDict(extra="ignore")


class _Vectors(_Part):
    """A file of vectors in the folder of checkpoints, with its checksum."""

    file: Annotated[str, Field(pattern=_VECTORS)]
    bytes: Annotated[int, Field(ge=0)]
    crc32: Annotated[int, Field(ge=0, lt=2**32)]


class _Best(_Part):
    """The best model so far."""

    round: Annotated[int, Field(ge=0)]
    mcc: float
    validation: Mapping[str, object]
    sites: Mapping[str, Mapping[str, object]]
    vectors: _Vectors


class _Document(_Part):
    """A checkpoint's JSON file."""

    vectors: _Vectors
    progress: Progress
    best: _Best | None


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
        if not os.path.lexists(self._folder):
            return []
        self._check_folder()
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
            except (RunError, OSError, ValueError) as error:
                complaints.append(f"checkpoint of round {round_} cannot be used ({printable(error)}); falling back to the one before")
                broken.append(round_)
                continue
            for useless in broken:
                self._remove(self._path(useless))
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
        try:
            document = self._document(round_)
            private_folder(to.parent)
            to.mkdir(0o700)
            for name in (document.vectors.file, document.best and document.best.vectors.file, self._path(round_).name):
                if name:
                    atomic_bytes(to / name, read_file(self._folder / name, LIMIT))
        except (OSError, ValueError) as error:
            raise RunError(f"the checkpoint of round {round_} in {self._folder} cannot be copied ({printable(error)})") from None

    def _make_folder(self) -> None:
        try:
            own_folder(self._folder)
        except OSError as error:
            raise RunError(f"cannot make {self._folder}: {error.strerror}") from error

    def _check_folder(self) -> None:
        """A link would have checkpoints read, written and removed elsewhere."""
        if not is_real_folder(self._folder):
            raise RunError(f"{self._folder} is a link or a file where the run's own folder of checkpoints belongs; remove it")

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
        vectors = self._read_vectors(document.vectors)
        return RunState(
            model=GlobalModel(round_, vectors["parameters"], vectors["buffers"]),
            server={name.removeprefix(_SERVER): value for name, value in vectors.items() if name.startswith(_SERVER)},
            best=self._read_best(document.best) if document.best else None,
            progress=document.progress,
        )

    def _read_best(self, best: _Best) -> Best:
        vectors = self._read_vectors(best.vectors)
        self._best_entry = best.vectors.model_dump()
        return Best(GlobalModel(best.round, vectors["parameters"], vectors["buffers"]), best.mcc, best.validation, best.sites)

    def _read_vectors(self, entry: _Vectors) -> State:
        path = self._folder / entry.file
        try:
            if (size := path.lstat().st_size) != entry.bytes:
                raise RunError(f"{path.name} has {size} bytes instead of {entry.bytes}")
            vectors: State = read_tensors(path)
        except Unusable as error:
            raise RunError(f"{path.name}: {error}") from None
        if _checksum(vectors) != entry.crc32:
            raise RunError(f"{path.name} does not match its checksum")
        for name in ("parameters", "buffers"):
            if name not in vectors or vectors[name].ndim != 1 or vectors[name].dtype != np.float32:
                raise RunError(f"{path.name} has no vector {name}")
        return vectors

    def _best_file(self, round_: int) -> str:
        """The best model's file that a checkpoint names; empty where it names none or cannot be read."""
        try:
            best = self._document(round_).best
        except (OSError, ValueError):
            return ""
        return best.vectors.file if best else ""

    def _document(self, round_: int) -> _Document:
        document: _Document = validated(_Document, read_object(self._path(round_)))
        return document

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:06d}.json"

    def _prune(self) -> None:
        kept = self.rounds()[-self._keep :]
        names = {f"round-{round_:06d}{suffix}" for round_ in kept for suffix in (".json", ".safetensors")}
        names |= {name for round_ in kept if (name := self._best_file(round_))}
        for path in self._folder.iterdir():
            if path.name not in names and _OURS.fullmatch(path.name):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a file of this folder; what is no file stays."""
        self._check_folder()
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def _checksum(vectors: State) -> int:
    """CRC-32 over all vectors in the order of their names."""
    checksum = 0
    for name in sorted(vectors):
        checksum = zlib.crc32(vectors[name].data, checksum)
    return checksum
