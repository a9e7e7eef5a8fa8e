"""Arithmetic modulo 2^bits: products, convolutions, pooling, and packing for the wire.

Elements of a ring of at most 32 bits are uint32, of more uint64; both wrap by themselves, so values are reduced modulo 2^bits only
where it shows. Feature maps are (channels, images, height, width): a convolution is then one matrix product for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from primia.mpc.workers import Workers

Ring = NDArray[Any]
"""An array of ring elements, uint32 or uint64."""

_COLUMNS = 512
_DEPTH = 32
_WORD_BITS = 32


@dataclass(frozen=True)
class Window:
    """A sliding window: (height, width) of its size, step and zero padding."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Positions of the window on a map of this size."""
        sizes = zip((height, width), self.kernel, self.stride, self.padding, strict=True)
        rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in sizes)
        return rows, columns


def dtype_of(bits: int) -> type[np.uint32] | type[np.uint64]:
    """The type that holds elements of a ring of ``bits`` bits."""
    return np.uint32 if bits <= 32 else np.uint64


def mask_of(bits: int) -> Any:
    """The largest element, 2^bits - 1, in the ring's type."""
    return dtype_of(bits)(2**bits - 1)


def encode(values: NDArray[np.float64], fraction_bits: int, bits: int) -> Ring:
    """Real numbers to the nearest multiples of 2^-fraction_bits, as ring elements."""
    whole = np.rint(np.asarray(values, np.float64) * 2.0**fraction_bits).astype(np.int64)
    elements: Ring = whole.astype(dtype_of(bits)) & mask_of(bits)
    return elements


def signed(values: Ring, bits: int) -> NDArray[np.int64]:
    """Ring elements as integers from -2^(bits-1) to 2^(bits-1) - 1."""
    shift = np.int64(64 - bits)
    return values.astype(np.uint64).view(np.int64) << shift >> shift


def matmul(left: Ring, right: Ring, workers: Workers) -> Ring:
    """(M, K) times (K, N), wrapping; float64 is left to BLAS, which is exact for integers while sums stay below 2^53."""
    if left.dtype == np.float64:
        return left @ right
    rows = -(-left.shape[0] // 4) * 4
    depth = -(-left.shape[1] // 4) * 4
    out = np.zeros((rows, right.shape[1]), left.dtype)
    left = np.pad(left, ((0, rows - left.shape[0]), (0, depth - left.shape[1]))) if (rows, depth) != left.shape else left
    right = np.pad(right, ((0, depth - right.shape[0]), (0, 0))) if depth != right.shape[0] else right
    by_columns = right.shape[1] >= workers.threads * 64
    if by_columns:
        workers.ranges(right.shape[1], lambda first, last: _multiply(left, right, 0, rows, first, last, out), multiple=16, smallest=32)
    else:
        workers.ranges(rows, lambda first, last: _multiply(left, right, first, last, 0, right.shape[1], out), multiple=4, smallest=16)
    return out


def columns_of(maps: Ring, window: Window) -> Ring:
    """Every window as a column: (C, B, H, W) to (C * kernel, B * rows * columns)."""
    channels, images, height, width = maps.shape
    if window == Window((1, 1), (1, 1), (0, 0)):
        return maps.reshape(channels, -1)
    rows, columns = window.output(height, width)
    maps = _padded(maps, window)
    c, b, h, w = maps.strides
    view = as_strided(
        maps,
        (channels, *window.kernel, images, rows, columns),
        (c, h, w, b, h * window.stride[0], w * window.stride[1]),
        writeable=False,
    )
    return view.reshape(channels * window.kernel[0] * window.kernel[1], images * rows * columns)


def convolve(maps: Ring, weights: Ring, window: Window, workers: Workers) -> Ring:
    """(C, B, H, W) by weights (O, C * kernel) to (O, B, rows, columns)."""
    product = matmul(weights, columns_of(maps, window), workers)[: len(weights)]
    return product.reshape(len(weights), maps.shape[1], *window.output(*maps.shape[2:]))


def sum_windows(maps: Ring, window: Window) -> Ring:
    """The sum over each window, wrapping."""
    rows, columns = window.output(*maps.shape[2:])
    maps = _padded(maps, window)
    total = np.zeros((*maps.shape[:2], rows, columns), maps.dtype)
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            total += maps[:, :, _steps(row, window.stride[0], rows), _steps(column, window.stride[1], columns)]
    return total


def window_parts(maps: Ring, window: Window, axis: int) -> list[Ring]:
    """What each place of the window sees along one axis (2: height, 3: width), zero where it sees padding."""
    place = axis - 2
    count = window.output(*maps.shape[2:])[place]
    padding = [(0, 0)] * 4
    padding[axis] = (window.padding[place],) * 2
    maps = np.pad(maps, padding) if window.padding[place] else maps
    index: list[Any] = [slice(None)] * 4
    parts = []
    for start in range(window.kernel[place]):
        index[axis] = _steps(start, window.stride[place], count)
        parts.append(maps[tuple(index)])
    return parts


def repeat(maps: Ring, factor: int) -> Ring:
    """Nearest-neighbour upsampling."""
    return maps.repeat(factor, axis=2).repeat(factor, axis=3)


def spread(maps: Ring, stride: tuple[int, int]) -> Ring:
    """Zeros put between rows and columns: a transposed convolution is a convolution of this."""
    channels, images, height, width = maps.shape
    out = np.zeros((channels, images, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1), maps.dtype)
    out[:, :, :: stride[0], :: stride[1]] = maps
    return out


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` elements of ``bits`` bits on the wire."""
    whole, rest = (4 * count, bits - _WORD_BITS) if bits >= _WORD_BITS else (0, bits)
    return whole + 4 * -(-count * rest // _WORD_BITS)


def pack(values: Ring, bits: int) -> NDArray[np.uint8]:
    """The low ``bits`` bits of each element, without gaps; bits beyond 32 follow after all low halves."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if bits < _WORD_BITS:
        words = np.zeros(packed_bytes(flat.size, bits) // 4, np.uint32)
        _pack(flat, bits, words)
        return words.view(np.uint8)
    low = flat.astype(np.uint32).view(np.uint8)
    if bits == _WORD_BITS:
        return low
    return np.concatenate([low, pack((flat >> np.uint64(_WORD_BITS)).astype(np.uint32), bits - _WORD_BITS)])


def unpack(data: NDArray[np.uint8], count: int, bits: int, dtype: Any) -> Ring:
    """The ``count`` elements that :func:`pack` was given, reduced modulo 2^bits."""
    if bits < _WORD_BITS:
        values = np.empty(count, dtype)
        _unpack(data.view(np.uint32), bits, values)
        return values
    low = data[: 4 * count].view(np.uint32).astype(dtype)
    if bits == _WORD_BITS:
        return low
    high: Ring = unpack(data[4 * count :], count, bits - _WORD_BITS, np.uint64) << np.uint64(_WORD_BITS)
    return low | high


def _padded(maps: Ring, window: Window) -> Ring:
    if window.padding == (0, 0):
        return maps
    return np.pad(maps, ((0, 0), (0, 0), (window.padding[0],) * 2, (window.padding[1],) * 2))


def _steps(start: int, stride: int, count: int) -> slice:
    return slice(start, start + stride * (count - 1) + 1, stride)


@njit(nogil=True, cache=True)
def _multiply(left: Any, right: Any, top: int, bottom: int, first: int, last: int, out: Any) -> None:
    """Four rows by four terms at a time: LLVM keeps the sixteen factors in registers and vectorises over the columns."""
    depth = left.shape[1]
    for start in range(first, last, _COLUMNS):
        width = min(_COLUMNS, last - start)
        for block in range(0, depth, _DEPTH):
            for m in range(top, bottom, 4):
                y0, y1, y2, y3 = (
                    out[m, start : start + width],
                    out[m + 1, start : start + width],
                    out[m + 2, start : start + width],
                    out[m + 3, start : start + width],
                )
                for k in range(block, min(depth, block + _DEPTH), 4):
                    x0, x1, x2, x3 = (
                        right[k, start : start + width],
                        right[k + 1, start : start + width],
                        right[k + 2, start : start + width],
                        right[k + 3, start : start + width],
                    )
                    a0, a1, a2, a3 = left[m, k], left[m, k + 1], left[m, k + 2], left[m, k + 3]
                    b0, b1, b2, b3 = left[m + 1, k], left[m + 1, k + 1], left[m + 1, k + 2], left[m + 1, k + 3]
                    c0, c1, c2, c3 = left[m + 2, k], left[m + 2, k + 1], left[m + 2, k + 2], left[m + 2, k + 3]
                    d0, d1, d2, d3 = left[m + 3, k], left[m + 3, k + 1], left[m + 3, k + 2], left[m + 3, k + 3]
                    for j in range(width):
                        y0[j] += a0 * x0[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j]
                        y1[j] += b0 * x0[j] + b1 * x1[j] + b2 * x2[j] + b3 * x3[j]
                        y2[j] += c0 * x0[j] + c1 * x1[j] + c2 * x2[j] + c3 * x3[j]
                        y3[j] += d0 * x0[j] + d1 * x1[j] + d2 * x2[j] + d3 * x3[j]


@njit(nogil=True, cache=True)
def _pack(values: Any, bits: int, words: Any) -> None:
    mask = np.uint64((1 << bits) - 1)
    buffer, filled, place = np.uint64(0), 0, 0
    for i in range(values.size):
        buffer |= (np.uint64(values[i]) & mask) << np.uint64(filled)
        filled += bits
        if filled >= _WORD_BITS:
            words[place] = np.uint32(buffer & np.uint64(0xFFFFFFFF))
            buffer >>= np.uint64(_WORD_BITS)
            filled -= _WORD_BITS
            place += 1
    if filled:
        words[place] = np.uint32(buffer)


@njit(nogil=True, cache=True)
def _unpack(words: Any, bits: int, values: Any) -> None:
    mask = np.uint64((1 << bits) - 1)
    buffer, filled, place = np.uint64(0), 0, 0
    for i in range(values.size):
        if filled < bits:
            buffer |= np.uint64(words[place]) << np.uint64(filled)
            filled += _WORD_BITS
            place += 1
        values[i] = buffer & mask
        buffer >>= np.uint64(bits)
        filled -= bits
