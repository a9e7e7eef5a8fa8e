"""The linear half of a program, the same for masked values, masks and plain integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from primia.mpc.program import INPUT, Layer, Local, Program, Term
from primia.mpc.ring import Ring, convolve, repeat, spread, sum_windows
from primia.mpc.workers import Workers

Weights = Sequence[Sequence[Ring]]
"""For each layer and term a matrix (outputs, inputs of a window); empty for a wire itself."""


class Wires:
    """Values of the wires that are in use; a wire is forgotten after its last use."""

    def __init__(self, program: Program, values: Ring) -> None:
        self._values = {INPUT: values}
        self._steps = iter(program.steps)
        self._last_use = {source: number for number, step in enumerate(program.steps) for source in _sources(step)}
        self._number = -1

    def __getitem__(self, name: str) -> Ring:
        return self._values[name]

    def set(self, name: str, values: Ring) -> None:
        """Give a layer's output its values."""
        self._values[name] = values

    def next_layer(self) -> Layer:
        """Take local steps until a layer is due."""
        while True:
            self._forget()
            step = next(self._steps)
            self._number += 1
            if isinstance(step, Layer):
                return step
            self._values[step.output] = _local(step, [self._values[name] for name in step.sources])

    def _forget(self) -> None:
        for name in [name for name in self._values if self._last_use.get(name, self._number + 1) <= self._number]:
            del self._values[name]


def layer_sum(layer: Layer, weights: Sequence[Ring], wires: Wires, workers: Workers, *, bare_wires: bool = True) -> Ring:
    """The layer's sum (O, B, H, W) without its bias, wrapping: convolutions, and (``bare_wires``) bare wires."""
    total: Ring | None = None
    for term, matrix in zip(layer.terms, weights, strict=True):
        if term.window is None and not bare_wires:
            continue
        source = wires[term.source]
        value = source * _encoded(term, layer, source) if term.window is None else convolve(source, matrix, term.window, workers)
        total = value if total is None else np.add(total, value, out=total)
    assert total is not None, "a layer has a convolution"
    return sum_windows(total, layer.sum_window) if layer.sum_window else total


def _encoded(term: Term, layer: Layer, like: Ring) -> Any:
    return np.int64(round(term.factor * 2**layer.weight_bits)).astype(like.dtype)


def _sources(step: Local | Layer) -> list[str]:
    return list(step.sources) if isinstance(step, Local) else [term.source for term in step.terms]


def _local(step: Local, values: Sequence[Ring]) -> Ring:
    if step.kind == "concatenate":
        return np.concatenate(values)
    if step.kind == "repeat":
        return repeat(values[0], step.factor[0])
    if step.kind == "spread":
        return spread(values[0], step.factor)
    assert step.window is not None, "a sum has a window"
    return sum_windows(values[0], step.window)
