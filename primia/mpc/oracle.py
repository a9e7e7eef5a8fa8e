"""The integer oracle: what a program computes, in the clear, with 64-bit integers that cannot wrap unseen.

Given the same rounding, the secure result must equal the oracle's bit for bit. How near both are to the network in floating point is
a second question, which calibration answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from primia.mpc.data_owner import Result, decoded
from primia.mpc.linear import Weights, Wires, layer_sum
from primia.mpc.program import Layer, Program, stage_number
from primia.mpc.ring import Ring, mask_of, signed
from primia.mpc.seeds import Purpose, Seeds
from primia.mpc.stages import walk
from primia.mpc.workers import Workers

Rounding = Callable[[int, Layer, tuple[int, ...]], NDArray[np.uint64]]
"""For a layer (its index, itself, the shape of its sum): uniform integers below 2^weight_bits, added before those bits are dropped."""

_FULL = mask_of(64)
_EXACT_IN_FLOAT = 44
"""Bits of a ring up to which sums of products in range stay below 2^53, where float64 is exact and BLAS is fast."""


class Oracle:
    """A program with its weights, in the clear."""

    def __init__(self, program: Program, weights: Weights, biases: Sequence[Ring], workers: Workers) -> None:
        self._program = program
        self._dtype = np.float64 if program.bits <= _EXACT_IN_FLOAT else np.uint64
        self._weights = [[self._widened(matrix) for matrix in terms] for terms in weights]
        self._biases = [signed(bias, program.bits) for bias in biases]
        self._workers = workers

    def run(self, images: Ring, rounding: Rounding) -> Result:
        """Outputs for encoded images (C, B, H, W), and the first layer whose values left the range that the plan gives them."""
        wires = Wires(self._program, self._widened(images))
        out_of_range = ""
        for index in range(len(self._program.layers)):
            layer = wires.next_layer()
            sums = layer_sum(layer, self._weights[index], wires, self._workers).astype(np.int64) + self._biases[index].reshape(-1, 1, 1, 1)
            if layer.last:
                return decoded(self._program, sums, out_of_range)
            kept = (sums + rounding(index, layer, sums.shape).view(np.int64)) >> np.int64(layer.weight_bits)
            output, fits = _activated(layer, kept)
            out_of_range = out_of_range or ("" if fits else layer.name)
            wires.set(layer.output, output.view(np.int64).astype(self._dtype))
        raise AssertionError("a program ends with its last layer")

    def _widened(self, values: Ring) -> Ring:
        return signed(values, self._program.bits).astype(self._dtype)


def batch_rounding(program: Program, model_seed: bytes, data_seed: bytes) -> Rounding:
    """The rounding of a batch whose seeds are known: the low bits of the dealer's masks."""
    model, data = Seeds(model_seed, program.bits), Seeds(data_seed, program.bits)

    def rounding(index: int, layer: Layer, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        stage = stage_number(index)
        mask = model.ring(stage, Purpose.VALUE_MASK, shape) - data.ring(stage, Purpose.OUTPUT_SHARE, shape)
        return mask.astype(np.uint64) & np.uint64(2**layer.weight_bits - 1)

    return rounding


def random_rounding(seed: bytes) -> Rounding:
    """The rounding of a batch that nobody deals, for calibration."""

    def rounding(index: int, layer: Layer, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        return Seeds(seed, 64).ring(stage_number(index), Purpose.VALUE_MASK, shape, layer.weight_bits)

    return rounding


def _activated(layer: Layer, values: NDArray[np.int64]) -> tuple[Ring, bool]:
    """Maxima and ReLU of plain integers, and whether every comparison was within its width."""
    fits = True
    stages = walk(layer, values.view(np.uint64), _FULL)
    stage = next(stages)
    while True:
        compared = stage.values.view(np.int64)
        limit = 2**stage.bits
        fits &= bool(compared.size == 0 or (compared.min() >= -limit and compared.max() < limit))
        chosen = np.where(compared >= 0, stage.values, np.uint64(0))
        try:
            stage = stages.send(chosen + stage.base if stage.base.size else chosen)
        except StopIteration as end:
            return end.value, fits
