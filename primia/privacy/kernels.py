"""The two passes over every entry of every unit's vector: norms, and sums in whole steps.

On a processor these are bound by memory, so each is one compiled loop; elsewhere they are torch's. Both do the same arithmetic, in
float64: a product of two float32 is exact there, and neither overflows nor vanishes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from primia.mpc.workers import Workers

_COLUMNS = 2**11
"""Entries of the sum that stay in the nearest cache while the units are added to them."""

_SMALLEST = 2**18
_PART = 2**20


def squared_norms(vectors: Tensor) -> Tensor:
    """Return the squared L2 norm ``(m,)`` of each of ``vectors`` ``(m, d)``; inf or nan where an entry is not finite.

    A sum of d squares in float64 has a relative error of at most d 2^-53, whatever its order. The order is that of the entries alone:
    it follows neither from the number of vectors nor from that of threads.
    """
    return _squared_norms_compiled(vectors) if vectors.device.type == "cpu" else _squared_norms_torch(vectors)


def add_steps(total: Tensor, vectors: Tensor, factors: Tensor) -> None:
    """Add to ``total`` ``(d,)`` each of ``vectors`` ``(m, d)`` times its factor ``(m,)``, in float64, truncated to whole numbers.

    A vector of factor 0 adds nothing, whatever its entries are; scaled entries are below 2^31.
    """
    (_add_steps_compiled if vectors.device.type == "cpu" else _add_steps_torch)(total, vectors, factors)


def _squared_norms_torch(vectors: Tensor) -> Tensor:
    # One by one: a reduction's order may follow from the number of rows.
    return torch.stack([torch.stack([part.double().square_().sum() for part in vector.split(_PART)]).sum() for vector in vectors])


def _add_steps_torch(total: Tensor, vectors: Tensor, factors: Tensor) -> None:
    for vector, factor in zip(vectors, factors.tolist(), strict=True):
        if factor > 0:
            total.add_(vector.double().mul_(factor).trunc_())


def _squared_norms_compiled(vectors: Tensor) -> Tensor:
    values = vectors.numpy()
    parts = -(-values.shape[1] // _PART)
    squares = np.zeros((len(values), parts))
    _ranges(parts, lambda first, last: _square(values, first, last, squares), 1)
    return torch.from_numpy(squares.sum(1))


def _add_steps_compiled(total: Tensor, vectors: Tensor, factors: Tensor) -> None:
    arrays = total.numpy(), vectors.numpy(), factors.numpy()
    _ranges(len(total), lambda first, last: _add(*arrays, first, last), _SMALLEST)


def _ranges(count: int, work: Callable[[int, int], None], smallest: int) -> None:
    Workers(torch.get_num_threads()).ranges(count, work, multiple=1, smallest=smallest)


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _square(values: Any, first: int, last: int, squares: Any) -> None:
    for part in range(first, last):
        for unit in range(len(values)):
            row = values[unit, part * _PART : (part + 1) * _PART]
            square = 0.0
            for at in range(len(row)):
                square += np.float64(row[at]) * np.float64(row[at])
            squares[unit, part] = square


@njit(nogil=True, cache=True)
def _add(total: Any, values: Any, factors: Any, first: int, last: int) -> None:
    for start in range(first, last, _COLUMNS):
        stop = min(start + _COLUMNS, last)
        into = total[start:stop]
        for unit in range(len(values)):
            factor = factors[unit]
            if factor > 0:
                row = values[unit, start:stop]
                for at in range(len(row)):
                    into[at] += np.float64(np.int32(np.float64(row[at]) * factor))
