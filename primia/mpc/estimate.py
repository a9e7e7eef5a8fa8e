"""How long a program will take here: a moment's measurement of the three loops that take nearly all the time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from primia.mpc.aes import fresh_seed
from primia.mpc.dpf import Backend, evaluate, generate, roots_from_seed
from primia.mpc.program import Costs, Program, comparisons
from primia.mpc.ring import matmul
from primia.mpc.workers import Workers

_COMPARISONS = 2**15
_BITS = 15
_SIZE = (128, 576, 1024)


@dataclass(frozen=True)
class Rates:
    """Seconds of one core, for a comparison of 15 bits and for one multiplication."""

    generate_s: float
    evaluate_s: float
    multiply_s: float


def measure_rates(program: Program, aes: Backend) -> Rates:
    """Run each loop twice on about 30,000 values, the second time with a clock; less than a second once compiled."""
    alone = Workers(1)
    values = np.arange(_COMPARISONS, dtype=np.uint32)
    roots = np.stack([roots_from_seed(fresh_seed(), 0, 0, party, _COMPARISONS)[0] for party in range(2)])
    rows, depth, columns = _SIZE
    left, right = np.ones((rows, depth), program.dtype), np.ones((depth, columns), program.dtype)
    for _ in range(2):
        times = [perf_counter()]
        keys = generate(bytes(16), roots, values, _BITS, alone, aes)
        times.append(perf_counter())
        evaluate(bytes(16), roots[0], values, keys, alone, aes)
        times.append(perf_counter())
        matmul(left, right, alone)
        times.append(perf_counter())
    spent = np.diff(times)
    return Rates(spent[0] / _COMPARISONS, spent[1] / _COMPARISONS, spent[2] / (rows * depth * columns))


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core for one image."""

    preprocessing_s: float
    online_s: float


def estimate(program: Program, costs: Costs, rates: Rates) -> Estimate:
    """All parties together on one core; two cores take a little more than half of it."""
    levels = sum(stage.size * (stage.bits - 7) for layer in program.layers for stage in comparisons(layer)) / (_BITS - 7)
    linear = costs.multiplications * rates.multiply_s
    return Estimate(levels * rates.generate_s + 2 * linear, 2 * levels * rates.evaluate_s + linear)
