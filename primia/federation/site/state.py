"""What a site keeps for itself between rounds: BatchNorm layers (FedBN) and optimiser state.

It never leaves the site. It is written under the round that made it, so that a run resumed at an earlier
round, or an actor that comes back after a crash, finds the state of just that round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from primia.config.settings import FederationSettings
from primia.errors import RunError
from primia.federation.update import GlobalModel
from primia.files import atomic_vectors, own_folder
from primia.models.flat import FlatSpec
from primia.training.learner import Learner
from primia.untrusted.files import is_real_folder, printable
from primia.untrusted.tensors import read_tensors

_OPTIMIZER = "optimizer."
_FILE = re.compile(r"round-(\d+)\.safetensors")


class SiteState:
    """State of one site in one session; an empty folder is a site that has no state yet."""

    def __init__(self, folder: Path, settings: FederationSettings, flat: FlatSpec) -> None:
        self._folder = folder
        self._own_batchnorm = settings.batchnorm == "local"
        self._own_optimizer = settings.keep_optimizer_state
        self._flat = flat

    def load_model(self, learner: Learner, model: GlobalModel) -> None:
        """Load the global model into the learner, under the site's own BatchNorm layers with FedBN (Li et al., ICLR 2021)."""
        parameters, buffers = model.parameters, model.buffers
        state = self._load(model.round) if self._own_batchnorm else {}
        if state:
            parameters, buffers = parameters.copy(), state["buffers"]
            parameters[self._flat.batchnorm_parameter_mask] = state["parameters"]
        learner.load(parameters, buffers)

    def load_optimizer(self, learner: Learner, round_: int) -> None:
        """Give the learner the optimiser state that the site had after ``round_``, where it keeps one."""
        if not self._own_optimizer:
            return
        state = {name.removeprefix(_OPTIMIZER): value for name, value in self._load(round_).items() if name.startswith(_OPTIMIZER)}
        if state:
            learner.load_optimizer_state(state)

    def save(self, learner: Learner, round_: int, *, keep: Sequence[int]) -> None:
        """Write the state after ``round_`` and drop what no round in ``keep`` needs."""
        arrays: dict[str, NDArray[Any]] = {}
        if self._own_batchnorm:
            arrays["buffers"] = learner.buffers()
            arrays["parameters"] = learner.parameters()[self._flat.batchnorm_parameter_mask]
        if self._own_optimizer:
            arrays |= {_OPTIMIZER + name: value for name, value in learner.optimizer_state().items()}
        if not arrays:
            return
        own_folder(self._folder)
        atomic_vectors(self._path(round_), arrays)
        self._forget({round_, *(self._latest(wanted) for wanted in keep)})

    def _load(self, round_: int) -> dict[str, NDArray[Any]]:
        latest = self._latest(round_)
        if latest is None:
            return {}
        try:
            return read_tensors(self._path(latest))
        except (OSError, ValueError) as error:
            raise RunError(f"{self._path(latest)} cannot be read ({printable(error)}); start a new run") from None

    def _latest(self, round_: int) -> int | None:
        """The last round up to ``round_`` with a state: a site that was left out of rounds has an older one."""
        return max((saved for saved in self._rounds() if saved <= round_), default=None)

    def _forget(self, needed: set[int | None]) -> None:
        for saved in self._rounds():
            if saved not in needed:
                self._path(saved).unlink()

    def _rounds(self) -> list[int]:
        if not is_real_folder(self._folder):
            return []
        return [int(match[1]) for path in self._folder.iterdir() if (match := _FILE.fullmatch(path.name))]

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:06d}.safetensors"
