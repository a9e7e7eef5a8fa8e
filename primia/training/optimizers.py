"""Local optimisers, and their state as named arrays."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from primia.config.settings import TrainingSettings

State = dict[str, NDArray[Any]]


def build_optimizer(settings: TrainingSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the settings name, without state; the learner sets its rate at every step."""
    parameters, rate, decay = list(model.parameters()), settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, betas=(settings.beta1, settings.beta2), weight_decay=decay)


def state_vectors(optimizer: torch.optim.Optimizer) -> State:
    """State as arrays named ``<parameter index>.<name>``."""
    entries = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": value.cpu().numpy().copy() for index, state in entries for name, value in state.items() if value is not None}


def load_state(optimizer: torch.optim.Optimizer, vectors: State) -> None:
    """Inverse of :func:`state_vectors`."""
    document = optimizer.state_dict()
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in vectors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = torch.tensor(value)
    optimizer.load_state_dict({**document, "state": state})
