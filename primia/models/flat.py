"""A model as two flat float32 vectors, parameters and float buffers: the one form in which models travel.

Never a state dict: pickling one ships a storage for each tensor. Never ``vector_to_parameters``: it makes every
parameter a view of one storage.
"""

from __future__ import annotations

import warnings
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
        return cls(_entries(model.named_parameters()), _entries(_named_float_buffers(model)), layers)

    def parameters(self, model: nn.Module) -> Vector:
        """All parameters, ``(parameter_count,)``, a fresh contiguous array."""
        return _flatten(list(model.parameters()), self.parameter_count)

    def buffers(self, model: nn.Module) -> Vector:
        """All float buffers, ``(buffer_count,)``, a fresh contiguous array."""
        return _flatten(_float_buffers(model), self.buffer_count)

    def load(self, model: nn.Module, parameters: Vector, buffers: Vector) -> None:
        """Copy both vectors, which may be read-only, into the model's own tensors."""
        _unflatten(parameters, list(model.parameters()))
        _unflatten(buffers, _float_buffers(model))

    def state_dict(self, parameters: Vector, buffers: Vector) -> dict[str, Vector]:
        """Named views of both vectors, for a model file."""
        named = [(entry, parameters) for entry in self._parameters] + [(entry, buffers) for entry in self._buffers]
        return {entry.name: vector[entry.span].reshape(entry.shape) for entry, vector in named}


def _named_float_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()]


def _float_buffers(model: nn.Module) -> list[Tensor]:
    return [buffer for _, buffer in _named_float_buffers(model)]


def _entries(tensors: Iterable[tuple[str, Tensor]]) -> list[Entry]:
    entries, offset = [], 0
    for name, tensor in tensors:
        entries.append(Entry(name, tuple(tensor.shape), offset, tensor.numel()))
        offset += tensor.numel()
    return entries


def _mask(entries: Sequence[Entry], wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
    sizes = np.array([entry.size for entry in entries], dtype=np.int64)
    return np.repeat(np.array([wanted(entry.name) for entry in entries], dtype=np.bool_), sizes)


@torch.no_grad()
def _flatten(tensors: Sequence[Tensor], size: int) -> Vector:
    # numpy's own memory comes in huge pages, which torch's does not: 12 ms instead of 20 for ResNet-18.
    vector = np.empty(size, dtype=np.float32)
    for part, tensor in _parts(torch.from_numpy(vector), tensors):
        part.copy_(tensor)
    return vector


@torch.no_grad()
def _unflatten(vector: Vector, tensors: Sequence[Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(vector)
    for part, tensor in _parts(flat.to(tensors[0].device) if tensors else flat, tensors):
        tensor.copy_(part)


def _parts(vector: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor with its part of the vector, in the tensor's shape."""
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return ((part.view(tensor.shape), tensor) for part, tensor in zip(parts, tensors, strict=True))
