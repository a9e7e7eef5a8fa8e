"""128-bit blocks in vector registers, for numba: the few operations that AES trees need, on 1, 2 or 4 blocks at once.

Numba has no vector values of its own, so these intrinsics emit them: LLVM's AES instructions for one block (AES-NI),
two (VAES with AVX2) or four (VAES with AVX-512). A block is two uint64, least significant first.

A bundle is several registers, whose AES rounds are interleaved: one alone would wait four cycles for each round, and a
processor's scheduler is too small to find the independent work of later iterations by itself. The shape of a bundle is carried by
the type of ``lanes``, so that numba compiles a kernel for each: a tuple of ``ways`` tuples of ``width`` zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

ROUNDS = 10
"""Of AES-128."""

_I64 = ir.IntType(64)
_AES = {1: "llvm.x86.aesni.aesenc{}", 2: "llvm.x86.aesni.aesenc{}.256", 4: "llvm.x86.aesni.aesenc{}.512"}


def widest() -> int:
    """Blocks that this processor encrypts with one instruction; 0 where it has no AES instruction that LLVM reaches."""
    features = binding.get_host_cpu_features()
    if not features.get("aes"):
        return 0
    if features.get("vaes"):
        return 4 if features.get("avx512f") else 2
    return 1


def bundle(width: int, ways: int) -> tuple[tuple[int, ...], ...]:
    """The value of ``lanes`` for bundles of ``ways`` registers of ``width`` blocks."""
    return ((0,) * width,) * ways


class Blocks(types.Type):
    """``lanes`` blocks, ``width`` of them in a register."""

    def __init__(self, lanes: int, width: int) -> None:
        self.lanes = lanes
        self.width = width
        super().__init__(name=f"Blocks({lanes}, {width})")

    @classmethod
    def of(cls, lanes: Any) -> Blocks:
        """The blocks that numba's type of ``lanes`` describes."""
        width = len(lanes[0])
        return cls(len(lanes) * width, width)


@register_model(Blocks)
class _BlocksModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Blocks) -> None:
        super().__init__(dmm, fe_type, _vector(fe_type.lanes))


def _vector(lanes: int, bits: int = 64, parts: int = 2) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), lanes * parts)


def _constant(lanes: int, low: int, high: int) -> ir.Constant:
    return ir.Constant(_vector(lanes), [low, high] * lanes)


def _shuffle(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: ir.VectorType) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _align(value: Any, array_type: Any) -> Any:
    value.align = array_type.dtype.bitwidth // 8
    return value


@intrinsic
def load(typing: Any, lanes: Any, array: Any, index: Any) -> Any:
    """Blocks that begin at ``array[index]``, a flat contiguous uint64 array."""
    blocks = Blocks.of(lanes)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, array, values[1], values[2], _vector(blocks.lanes))
        return _align(builder.load(pointer), array)

    return blocks(lanes, array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write blocks to ``array[index]`` and on."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _pointer(context, builder, array, values[0], values[1], _vector(value.lanes))
        _align(builder.store(values[2], pointer), array)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def load_low(typing: Any, lanes: Any, array: Any, index: Any) -> Any:
    """One number of a flat uint8, uint32 or uint64 array for each block, zero-extended into its low half."""
    blocks = Blocks.of(lanes)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        narrow = _vector(blocks.lanes, array.dtype.bitwidth, 1)
        numbers = _align(builder.load(_pointer(context, builder, array, values[1], values[2], narrow)), array)
        wide = _vector(blocks.lanes, 64, 1)
        numbers = builder.zext(numbers, wide) if narrow != wide else numbers
        order = [part for lane in range(blocks.lanes) for part in (lane, blocks.lanes)]
        return _shuffle(builder, numbers, ir.Constant(wide, [0] * blocks.lanes), order)

    return blocks(lanes, array, types.intp), emit


@intrinsic
def store_low(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write the low half of each block, truncated, to ``array[index]`` and on."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        numbers = _shuffle(builder, values[2], values[2], [2 * lane for lane in range(value.lanes)])
        narrow = _vector(value.lanes, array.dtype.bitwidth, 1)
        numbers = builder.trunc(numbers, narrow) if narrow != _vector(value.lanes, 64, 1) else numbers
        _align(builder.store(numbers, _pointer(context, builder, array, values[0], values[1], narrow)), array)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


def _binary(name: str, doc: str) -> Callable[..., Any]:
    def operation(typing: Any, first: Any, second: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, name)(values[0], values[1])

        return first(first, second), emit

    operation.__doc__ = doc
    made: Callable[..., Any] = intrinsic(operation)
    return made


xor = _binary("xor", "Bitwise exclusive or.")
both = _binary("and_", "Bitwise and.")


@intrinsic
def clear_lsb(typing: Any, value: Any) -> Any:
    """Each block with its lowest bit cleared."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.and_(values[0], _constant(value.lanes, 2**64 - 2, 2**64 - 1))

    return value(value), emit


@intrinsic
def lsb(typing: Any, value: Any) -> Any:
    """The lowest bit of each block alone."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.and_(values[0], _constant(value.lanes, 1, 0))

    return value(value), emit


@intrinsic
def flip_lsb(typing: Any, value: Any) -> Any:
    """Each block with its lowest bit flipped."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.xor(values[0], _constant(value.lanes, 1, 0))

    return value(value), emit


@intrinsic
def spread_lsb(typing: Any, value: Any) -> Any:
    """All ones where the lowest bit of the block is one, else zero."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        low = _shuffle(builder, values[0], values[0], [part for lane in range(value.lanes) for part in (2 * lane, 2 * lane)])
        return builder.neg(builder.and_(low, _constant(value.lanes, 1, 1)))

    return value(value), emit


def _shift(name: str, doc: str) -> Callable[..., Any]:
    def operation(typing: Any, value: Any, by: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            vector = _vector(value.lanes)
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), values[1], ir.IntType(32)(0))
            return getattr(builder, name)(values[0], _shuffle(builder, single, single, [0] * (2 * value.lanes)))

        return value(value, types.intp), emit

    operation.__doc__ = doc
    made: Callable[..., Any] = intrinsic(operation)
    return made


shift_right = _shift("lshr", "Both halves of each block shifted right by the same number of bits.")
shift_left = _shift("shl", "Both halves of each block shifted left by the same number of bits.")


@intrinsic
def one_way(typing: Any, value: Any, keys: Any) -> Any:
    """AES_k(x) xor x (Matyas-Meyer-Oseas with a fixed key). ``keys``: 11 round keys, each repeated for every block of a register."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        register = _vector(value.width)
        function = ir.FunctionType(register, [register, register])
        inner, last = (cgutils.get_or_insert_function(builder.module, function, _AES[value.width].format(end)) for end in ("", "last"))

        def key(number: int) -> Any:
            index = context.get_constant(types.intp, number * 2 * value.width)
            return _align(builder.load(_pointer(context, builder, keys, values[1], index, register)), keys)

        size = 2 * value.width
        parts = [_shuffle(builder, values[0], values[0], list(range(i, i + size))) for i in range(0, 2 * value.lanes, size)]
        whitening = key(0)
        states = [builder.xor(part, whitening) for part in parts]
        for number in range(1, ROUNDS + 1):
            round_key = key(number)
            states = [builder.call(last if number == ROUNDS else inner, [state, round_key]) for state in states]
        return _joined(builder, [builder.xor(state, part) for state, part in zip(states, parts, strict=True)])

    return value(value, keys), emit


def _joined(builder: Any, parts: list[Any]) -> Any:
    """Vectors of equal length, a power of two of them, one after the other."""
    while len(parts) > 1:
        order = list(range(2 * parts[0].type.count))
        parts = [_shuffle(builder, first, second, order) for first, second in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic
def parity(typing: Any, number: Any) -> Any:
    """Number of one bits of a uint64, modulo 2."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.and_(builder.ctpop(values[0]), _I64(1))

    return types.uint64(types.uint64), emit
