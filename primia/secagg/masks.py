"""Masks: pseudorandom ring vectors from 16-byte keys, added or taken away in place.

AES-128 in counter mode is the generator. A key serves one aggregation, so every stream begins at counter zero. The
vector is walked in pieces that stay in the second cache: each piece gets all masks before the next one is touched, which
is what makes ten masks on 45 MB a matter of 80 ms on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from primia.secagg.ring import RingVector

KEY_BYTES = 16

_AES_BLOCK = 16
_PIECE = 2**17
_ZEROS = memoryview(bytes(_PIECE))


@dataclass(frozen=True)
class Mask:
    """A mask by its key; ``negative``: it is taken away."""

    key: bytes
    negative: bool = False


def mask_key(secret: bytes, purpose: bytes, aggregation: bytes) -> bytes:
    """The AES key for one purpose in one aggregation: HKDF-SHA256 (RFC 5869)."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=aggregation, info=b"primia secure aggregation " + purpose).derive(secret)


def apply_masks(vector: RingVector, masks: Sequence[Mask], threads: int = 1) -> None:
    """Add (or take away) all ``masks``, in place."""
    pieces = [
        *_spans(vector.data, 0, vector.layout.wide_bytes, threads),
        *_spans(vector.data, vector.layout.wide_bytes, vector.nbytes, threads),
    ]
    narrow_from = vector.layout.wide_bytes

    def work(span: tuple[int, int]) -> None:
        start, end = span
        _mask_span(vector.data[start:end].view(np.uint32 if start >= narrow_from else np.uint64), start, masks)

    if threads == 1 or vector.nbytes < _PIECE:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, pieces))


def _spans(data: NDArray[np.uint8], start: int, end: int, parts: int) -> list[tuple[int, int]]:
    """``start`` to ``end`` in so many parts, each beginning at an AES block."""
    size = -(-(end - start) // (parts * _AES_BLOCK)) * _AES_BLOCK
    return [(at, min(at + size, end)) for at in range(start, end, size)] if size else []


def _mask_span(elements: NDArray[Any], offset: int, masks: Sequence[Mask]) -> None:
    counter = (offset // _AES_BLOCK).to_bytes(_AES_BLOCK, "big")
    streams = [
        (Cipher(algorithms.AES(mask.key), modes.CTR(counter)).encryptor(), np.subtract if mask.negative else np.add) for mask in masks
    ]
    buffer = np.empty(_PIECE + _AES_BLOCK, np.uint8)  # OpenSSL wants room for a block more
    count = _PIECE // elements.itemsize
    for first in range(0, len(elements), count):
        piece = elements[first : first + count]
        stream = buffer[: piece.nbytes].view(elements.dtype)
        for encryptor, combine in streams:
            encryptor.update_into(_ZEROS[: piece.nbytes], buffer.data)
            combine(piece, stream, out=piece)
