"""Compiles a network: widths from calibration images, encoded weights, and what that costs in accuracy.

For each layer the largest sum on the calibration images fixes b, the comparison width, with spare bits on top; what the ring has left
goes to the weights. Values beyond 2^b are not computed wrongly in silence: the range check of the protocol names the layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from primia.errors import DataError, ModelError
from primia.mpc.aes import fresh_seed
from primia.mpc.dpf_layout import LARGEST_BITS, SMALLEST_BITS
from primia.mpc.linear import Weights
from primia.mpc.network import Network, RealLayer, RealTerm, read_network
from primia.mpc.oracle import Oracle, random_rounding
from primia.mpc.program import Layer, Local, Program, Shape, Term
from primia.mpc.ring import Ring, encode
from primia.mpc.workers import Workers

_MOST_WEIGHT_BITS = 14
_FEWEST_WEIGHT_BITS = 9
_TOP_BITS = 3
"""A value's bits above its comparison width: its sign, one for the lift into the ring, and one more for the range check."""
_BATCH = 8
_JUDGED = 16
"""Images that the oracle runs on."""


@dataclass(frozen=True)
class Precision:
    """What calibration may choose from.

    Attributes:
        bits: smallest ring.
        fraction_bits: of activations.
        spare_bits: between the largest value on the calibration images and the largest that is computed right.
    """

    bits: int = 32
    fraction_bits: int = 10
    spare_bits: int = 2


@dataclass(frozen=True)
class Agreement:
    """The integer oracle against the network in floating point, on the calibration images."""

    images: int
    same_class: int
    largest_error: float


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program, its encoded weights and biases, and how near it is to the network."""

    program: Program
    weights: Weights
    biases: tuple[Ring, ...]
    agreement: Agreement

    @property
    def fingerprint(self) -> str:
        """Changes whenever the program or a weight does."""
        state = hashlib.sha256(self.program.fingerprint.encode())
        for array in (*(matrix for terms in self.weights for matrix in terms), *self.biases):
            state.update(array.data)
        return state.hexdigest()[:32]

    def oracle(self, workers: Workers) -> Oracle:
        """The program in the clear."""
        return Oracle(self.program, self.weights, self.biases, workers)

    def encoded(self, images: Tensor) -> Ring:
        """Normalised images (B, C, H, W) as the data owner puts them in: ring elements (C, B, H, W)."""
        return encode_images(self.program, images.numpy())


@dataclass
class _Range:
    """Largest sum and largest difference that maxima compare, by size."""

    value: float = 0.0
    difference: float = 0.0


def encode_images(program: Program, images: NDArray[Any]) -> Ring:
    """Normalised images (B, C, H, W) as ring elements (C, B, H, W).

    Raises:
        DataError: a value is not finite or does not fit into the ring.
    """
    if not np.abs(images).max(initial=0) < 2.0 ** (program.bits - 2 - program.fraction_bits):
        raise DataError(
            "an image has values that are not finite or do not fit into the ring once normalised; check the model's normalisation"
        )
    return np.ascontiguousarray(encode(np.moveaxis(images, 1, 0), program.fraction_bits, program.bits))


@torch.inference_mode()
def compile_network(model: nn.Module, input_shape: Shape, images: Tensor, precision: Precision, workers: Workers) -> Compiled:
    """Compile ``model`` for images like ``images`` (B, C, H, W), which are normalised as the model wants them.

    Raises:
        ModelError: a layer or a range of values is not supported; the message names the layer.
    """
    network = read_network(model, input_shape)
    ranges, outputs = _calibrate(network, model, images)
    layers = [step for step in network.steps if isinstance(step, RealLayer)]
    bits = max(precision.bits, *(_ring_bits(layer, ranges[layer.name], precision) for layer in layers))
    if bits > 64:
        raise ModelError("the network's values need a ring of more than 64 bits; give fewer fraction bits (inference.fraction_bits)")
    steps = [step if isinstance(step, Local) else _layer(step, ranges[step.name], bits, precision) for step in network.steps]
    program = Program(bits, precision.fraction_bits, input_shape, tuple(steps))
    compiled = _encoded(program, network)
    return replace(compiled, agreement=_agreement(compiled, images, outputs, workers))


def compile_as(program: Program, model: nn.Module) -> Compiled:
    """``model`` with the widths of a program that it was compiled to before, so that keys made for it still fit.

    Raises:
        ModelError: the program is of another network.
    """
    network = read_network(model, program.input_shape)
    compiled = _encoded(program, network)
    shapes = [[matrix.shape for matrix in terms] for terms in compiled.weights]
    due = [[program.weight_shape(term, layer) for term in layer.terms] for layer in program.layers]
    if [step.output for step in network.steps] != [step.output for step in program.steps] or shapes != due:
        raise ModelError("the keys were made for another network; make fresh ones with --preprocess")
    return compiled


def _encoded(program: Program, network: Network) -> Compiled:
    pairs = list(zip((step for step in network.steps if isinstance(step, RealLayer)), program.layers, strict=False))
    weights = [[_matrix(term, layer, program.bits) for term in real.terms] for real, layer in pairs]
    biases = tuple(encode(real.bias.double().numpy(), program.fraction_bits + layer.weight_bits, program.bits) for real, layer in pairs)
    return Compiled(program, weights, biases, Agreement(0, 0, 0.0))


def _calibrate(network: Network, model: nn.Module, images: Tensor) -> tuple[dict[str, _Range], Tensor]:
    ranges: dict[str, _Range] = {}

    def observe(layer: RealLayer, total: Tensor, differences: Sequence[Tensor]) -> None:
        if not total.isfinite().all():
            raise ModelError(f"{layer.name}: values are not finite on the calibration images; train again with a lower learning rate")
        found = ranges.setdefault(layer.name, _Range())
        found.value = max(found.value, float(total.abs().max()))
        found.difference = max([found.difference, *(float(difference.abs().max()) for difference in differences)])

    outputs = torch.cat([network.run(part, observe).flatten(1) for part in torch.split(images, _BATCH)])
    expected = model(images[:_BATCH]).flatten(1)
    if not torch.allclose(outputs[:_BATCH], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ModelError("the network does something that its layers do not show; encrypted inference would compute another function")
    return ranges, outputs


def _width(largest: float, precision: Precision) -> int:
    """Bits of values up to ``largest``, with the spare ones."""
    return max(SMALLEST_BITS, ceil(log2(max(largest, 1e-9)) + precision.fraction_bits) + precision.spare_bits)


def _ring_bits(layer: RealLayer, found: _Range, precision: Precision) -> int:
    largest = max(found.value, found.difference)
    width = _width(largest, precision)
    if width > LARGEST_BITS:
        raise ModelError(
            f"{layer.name}: values up to {largest:.3g} need comparisons of {width} bits, more than {LARGEST_BITS}; "
            "train with weight decay, or give fewer fraction bits (inference.fraction_bits)"
        )
    return width + _TOP_BITS + _FEWEST_WEIGHT_BITS


def _layer(real: RealLayer, found: _Range, bits: int, precision: Precision) -> Layer:
    width, difference = _width(found.value, precision), _width(found.difference, precision)
    return Layer(
        name=real.name,
        terms=tuple(Term(term.source, term.window, term.factor) for term in real.terms),
        output=real.output,
        shape=real.shape,
        weight_bits=min(_MOST_WEIGHT_BITS, bits - _TOP_BITS - (max(width, difference) if real.pool else width)),
        sum_window=real.sum_window,
        comparison_bits=0 if real.last else width,
        pool=real.pool,
        pool_bits=difference if real.pool else 0,
        last=real.last,
    )


def _matrix(term: RealTerm, layer: Layer, bits: int) -> Ring:
    weight = np.zeros((0, 0)) if term.weight is None else term.weight.double().flatten(1).numpy()
    return encode(weight, layer.weight_bits, bits)


def _agreement(compiled: Compiled, images: Tensor, outputs: Tensor, workers: Workers) -> Agreement:
    oracle, same, largest = compiled.oracle(workers), 0, 0.0
    images, outputs = images[:: -(-len(images) // _JUDGED)], outputs[:: -(-len(images) // _JUDGED)]
    for part, expected in zip(torch.split(images, _BATCH), torch.split(outputs, _BATCH), strict=True):
        result = oracle.run(compiled.encoded(part), random_rounding(fresh_seed()))
        if result.out_of_range:
            raise ModelError(f"{result.out_of_range}: values leave the range on the calibration images themselves; give more spare bits")
        same += int((result.outputs.argmax(1) == expected.numpy().argmax(1)).sum())
        largest = max(largest, float(np.abs(result.outputs - expected.numpy()).max()))
    return Agreement(len(images), same, largest)
