"""A model as two flat float32 vectors, parameters and float buffers: the one form in which models travel.

Never a state dict: pickling one ships a storage for each tensor. Never ``vector_to_parameters``: it makes every
parameter a view of one storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """Where one named tensor lies in a flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def span(self) -> slice:
        """The entry's part of the vector."""
        return slice(self.offset, self.offset + self.size)


class FlatSpec:
    """Names, shapes and offsets of a model's parameters and float buffers, in the model's own order.

    ``mean_mask`` and ``variance_mask`` select BatchNorm running means and variances among the buffers, in the
    same order, so that ``buffers[mean_mask]`` pairs with ``buffers[variance_mask]``; ``batchnorm_parameter_mask``
    selects the affine parameters of BatchNorm layers.
    """

    def __init__(self, parameters: Sequence[Entry], buffers: Sequence[Entry], batchnorm: Iterable[str]) -> None:
        layers = set(batchnorm)
        self._parameters = tuple(parameters)
        self._buffers = tuple(buffers)
        self.parameter_count = sum(entry.size for entry in parameters)
        self.buffer_count = sum(entry.size for entry in buffers)
        self.mean_mask = _mask(buffers, lambda name: name.endswith("running_mean"))
        self.variance_mask = _mask(buffers, lambda name: name.endswith("running_var"))
        self.batchnorm_parameter_mask = _mask(parameters, lambda name: name.rpartition(".")[0] in layers)

    @classmethod
    def of(cls, model: nn.Module) -> FlatSpec:
        """The layout of ``model``."""
        layers = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
        return cls(_entries(model.named_parameters()), _entries(_float_buffers(model)), layers)

    def parameters(self, model: nn.Module) -> Vector:
        """All parameters, ``(parameter_count,)``, a fresh contiguous array."""
        return _flatten([parameter.detach() for parameter in model.parameters()])

    def buffers(self, model: nn.Module) -> Vector:
        """All float buffers, ``(buffer_count,)``, a fresh contiguous array."""
        return _flatten([buffer for _, buffer in _float_buffers(model)])

    @torch.no_grad()
    def load(self, model: nn.Module, parameters: Vector, buffers: Vector) -> None:
        """Copy both vectors, which may be read-only, into the model's own tensors."""
        for entry, parameter in zip(self._parameters, model.parameters(), strict=True):
            parameter.copy_(_tensor(parameters, entry))
        for entry, (_, buffer) in zip(self._buffers, _float_buffers(model), strict=True):
            buffer.copy_(_tensor(buffers, entry))

    def state_dict(self, parameters: Vector, buffers: Vector) -> dict[str, Vector]:
        """Named views of both vectors, for a model file."""
        named = [(entry, parameters) for entry in self._parameters] + [(entry, buffers) for entry in self._buffers]
        return {entry.name: vector[entry.span].reshape(entry.shape) for entry, vector in named}


def _float_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())


def _entries(tensors: Iterable[tuple[str, Tensor]]) -> list[Entry]:
    entries, offset = [], 0
    for name, tensor in tensors:
        entries.append(Entry(name, tuple(tensor.shape), offset, tensor.numel()))
        offset += tensor.numel()
    return entries


def _mask(entries: Sequence[Entry], wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
    parts = [np.full(entry.size, wanted(entry.name)) for entry in entries]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)


def _flatten(tensors: Sequence[Tensor]) -> Vector:
    if not tensors:
        return np.zeros(0, dtype=np.float32)
    vector: Vector = torch.cat([tensor.reshape(-1) for tensor in tensors]).float().cpu().numpy()
    return vector


def _tensor(vector: Vector, entry: Entry) -> Tensor:
    part = vector[entry.span].reshape(entry.shape)
    return torch.frombuffer(part, dtype=torch.float32).view(entry.shape) if part.flags.writeable else torch.from_numpy(part.copy())
