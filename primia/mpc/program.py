"""What is computed under encryption: a public list of steps on named wires, without a single weight.

A *wire* carries activations as fixed-point numbers in the ring of ``bits`` bits, with ``fraction_bits`` of them behind the point. A
:class:`Local` step rearranges or adds up wires. A :class:`Layer` is one sum of convolutions of wires, after which
values are dropped to ``value_bits``, pooled by maxima, and passed through ReLU to a new wire; the last layer's sum is the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from primia.errors import ProtocolError
from primia.mpc.dpf_layout import key_bytes
from primia.mpc.messages import Kind, Message
from primia.mpc.ring import Window, dtype_of, packed_bytes
from primia.untrusted.documents import parse_object

Shape = tuple[int, int, int]
"""Channels, height, width of one image's map."""

INPUT = "input"
_VERSION = 1


@dataclass(frozen=True)
class Local:
    """A linear step without weights, which each party takes alone: on masked values and on masks alike."""

    kind: Literal["sum", "concatenate", "repeat", "spread"]
    sources: tuple[str, ...]
    output: str
    shape: Shape
    window: Window | None = None
    factor: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Term:
    """A convolution of a wire; without a window the wire itself times ``factor``, encoded like a weight."""

    source: str
    window: Window | None
    factor: float = 1.0


@dataclass(frozen=True)
class Layer:
    """``output`` = act(maxima(drop(sum_windows(terms) + bias))).

    Attributes:
        name: as the network calls it.
        shape: of the sum, after ``sum_window``.
        weight_bits: fraction bits of the weights, dropped again after the sum.
        comparison_bits: b; after dropping, values are below 2^b in size.
        pool: a window of maxima, taken along rows, then columns; None: none.
        pool_bits: the same bound for differences of two values.
        last: the sum itself is the result, and only the data owner learns it.
    """

    name: str
    terms: tuple[Term, ...]
    output: str
    shape: Shape
    weight_bits: int
    sum_window: Window | None = None
    comparison_bits: int = 0
    pool: Window | None = None
    pool_bits: int = 0
    last: bool = False


TABLE_ENTRIES = {"max": 2, "relu": 4}
"""By the opened bit; for ReLU also by the wrap bit. See :mod:`primia.mpc.select`."""


class Comparison(NamedTuple):
    """One batch of comparisons, made at the same time: an exchange of its own."""

    size: int
    bits: int
    kind: Literal["max", "relu"]

    @property
    def entries(self) -> int:
        """Of the table that a value's output is chosen from."""
        return TABLE_ENTRIES[self.kind]


@dataclass(frozen=True)
class Costs:
    """For one image: what the plan prints before anything runs, and what tests compare with the wire."""

    comparisons: int
    multiplications: int
    exchanges: int
    online_bytes: int
    offline_bytes: int
    common_key_bytes: int
    correction_bytes: int
    setup_bytes: int

    @property
    def key_bytes(self) -> int:
        """Key material of the party that holds more: the model owner."""
        return self.common_key_bytes + self.correction_bytes


@dataclass(frozen=True)
class Program:
    """The whole network, and the ring that it is computed in.

    ``about``: what else all parties may know, such as the names of classes; a text that means nothing here.
    """

    bits: int
    fraction_bits: int
    input_shape: Shape
    steps: tuple[Local | Layer, ...]
    about: str = ""

    @property
    def dtype(self) -> Any:
        """Of ring elements."""
        return dtype_of(self.bits)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order; their index is their number in messages."""
        return tuple(step for step in self.steps if isinstance(step, Layer))

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of all wires."""
        found: dict[str, Shape] = {INPUT: self.input_shape}
        for step in self.steps:
            found[step.output] = step.shape if isinstance(step, Local) else pooled_shape(step)
        return found

    def value_bits(self, layer: Layer) -> int:
        """Bits of the layer's values once the weights' fraction is dropped."""
        return self.bits - layer.weight_bits

    def weight_shape(self, term: Term, layer: Layer) -> tuple[int, int]:
        """Of a term's weights as a matrix: outputs by inputs of a window; (0, 0) for a wire itself."""
        return (layer.shape[0], self.shapes[term.source][0] * prod(term.window.kernel)) if term.window else (0, 0)

    def to_json(self) -> str:
        """A text that :meth:`from_json` reads."""
        steps = [{"step": type(step).__name__.lower()} | asdict(step) for step in self.steps]
        return json.dumps({"version": _VERSION} | asdict(self) | {"steps": steps}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Read a program that another party sent.

        Raises:
            ProtocolError: it is of another version, or is none.
        """
        try:
            document = parse_object(text)
            if document.pop("version") != _VERSION:
                raise ProtocolError("the plan is of another version of primia; install the same at all parties")
            return cls(**document | {"input_shape": tuple(document["input_shape"]), "steps": tuple(map(_step, document["steps"]))})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"the plan cannot be read ({error}); install the same version of primia at all parties") from None

    def to_message(self) -> Message:
        """The plan as the model owner sends it."""
        return Message(Kind.PLAN, 0, 0, (np.frombuffer(self.to_json().encode(), np.uint8),))

    @classmethod
    def from_message(cls, message: Message) -> Program:
        """The plan that was sent; errors as :meth:`from_json`."""
        return cls.from_json(b"".join(array.tobytes() for array in message.arrays).decode(errors="replace"))

    @property
    def fingerprint(self) -> str:
        """Changes whenever the program does."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def costs(self) -> Costs:
        """For one image in a batch of its own."""
        stages = [(layer, comparison) for layer in self.layers for comparison in comparisons(layer)]
        size = self.dtype(0).itemsize
        sums = [packed_bytes(prod(layer.shape), self.bits) for layer in self.layers]
        return Costs(
            comparisons=sum(stage.size for _, stage in stages),
            multiplications=sum(self._multiplications(layer) for layer in self.layers),
            exchanges=len(stages) + 1,
            online_bytes=self._online_bytes(),
            offline_bytes=2 * sum(sums) + sum(2 * key_bytes(s.bits, s.size) + s.size * ((1 + s.entries) * size + 2) for _, s in stages),
            common_key_bytes=sum(key_bytes(stage.bits, stage.size) for _, stage in stages),
            correction_bytes=sum(stage.size * ((1 + stage.entries) * size + 2) for _, stage in stages) + sum(sums),
            setup_bytes=sum(packed_bytes(prod(self.weight_shape(term, layer)), self.bits) for layer in self.layers for term in layer.terms),
        )

    def _multiplications(self, layer: Layer) -> int:
        total = 0
        for term in layer.terms:
            if term.window:
                total += prod(self.weight_shape(term, layer)) * prod(term.window.output(*self.shapes[term.source][1:]))
        return total

    def _online_bytes(self) -> int:
        total = packed_bytes(prod(self.input_shape), self.bits)
        for layer in self.layers:
            if layer.last:
                return total + packed_bytes(prod(layer.shape), self.bits) + DIGEST_BYTES * len(comparison_index(self))
            kept = self.value_bits(layer)
            total += packed_bytes(prod(layer.shape), kept)
            for stage in comparisons(layer):
                signs = 2 * -(-stage.size // 8)
                # A maximum comes masked from one side and goes back unmasked of shares; ReLU's output goes one way only.
                values = 2 * packed_bytes(stage.size, kept) if stage.kind == "max" else packed_bytes(stage.size, self.bits)
                total += signs + values
        return total


DIGEST_BYTES = 16
"""Of each stage's range check."""


def pooled_shape(layer: Layer) -> Shape:
    """Shape of a layer's output."""
    return layer.shape if layer.pool is None else (layer.shape[0], *layer.pool.output(*layer.shape[1:]))


def comparisons(layer: Layer) -> Iterator[Comparison]:
    """A layer's comparisons for one image, in the order in which they are made."""
    if layer.last:
        return
    if layer.pool:
        channels, height, _ = layer.shape
        rows, columns = layer.pool.output(*layer.shape[1:])
        for places, positions in ((layer.pool.kernel[1], height * columns), (layer.pool.kernel[0], rows * columns)):
            while places > 1:
                yield Comparison(places // 2 * channels * positions, layer.pool_bits, "max")
                places -= places // 2
    yield Comparison(prod(pooled_shape(layer)), layer.comparison_bits, "relu")


def comparison_index(program: Program) -> list[tuple[int, int]]:
    """(layer, number within the layer) of all comparison stages."""
    return [(index, number) for index, layer in enumerate(program.layers) for number, _ in enumerate(comparisons(layer))]


def stage_number(layer: int, comparison: int = -1) -> int:
    """Number of a layer's sum, or of one of its comparison stages, in messages and in seeds."""
    return layer << 8 | (comparison + 1)


def _step(document: Mapping[str, Any]) -> Local | Layer:
    fields = dict(document)
    kind = {"local": Local, "layer": Layer}[fields.pop("step")]
    for name in ("window", "sum_window", "pool"):
        if name in fields:
            fields[name] = _window(fields[name])
    if kind is Layer:
        fields["terms"] = tuple(Term(term["source"], _window(term["window"]), term["factor"]) for term in fields["terms"])
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    step: Local | Layer = kind(**fields | lists)
    return step


def _window(document: Mapping[str, Any] | None) -> Window | None:
    return None if document is None else Window(*(tuple(document[name]) for name in ("kernel", "stride", "padding")))
