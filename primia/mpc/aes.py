"""AES-128: the key schedule that the vector kernels need, and expansion of seeds into pseudorandom bytes."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 16

_ZEROS = memoryview(bytes(2**18))
"""What counter mode encrypts: a piece that stays in the second cache."""


def fresh_seed() -> bytes:
    """16 bytes from the operating system's generator."""
    return secrets.token_bytes(SEED_BYTES)


def expand(seed: bytes, stage: int, purpose: int, nbytes: int) -> NDArray[np.uint8]:
    """``nbytes`` pseudorandom bytes: AES-CTR under ``seed``; each (stage, purpose) is a stream of its own.

    The counter block begins with stage and purpose, so that streams cannot meet below 2^64 blocks.
    """
    start = stage.to_bytes(4, "big") + purpose.to_bytes(4, "big") + bytes(8)
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(start)).encryptor()
    stream = np.empty(nbytes + SEED_BYTES - 1, np.uint8)
    for first in range(0, nbytes, len(_ZEROS)):
        encryptor.update_into(_ZEROS[: nbytes - first], stream.data[first:])
    return stream[:nbytes]


def ring_elements(seed: bytes, stage: int, purpose: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Uniform elements of the full range of the unsigned ``dtype``."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    elements: NDArray[Any] = expand(seed, stage, purpose, size).view(dtype).reshape(shape)
    return elements


def round_keys(key: bytes) -> NDArray[np.uint64]:
    """The 11 round keys of AES-128 (FIPS 197, section 5.2), ``(11, 2)``."""
    words = [list(key[i : i + 4]) for i in range(0, 16, 4)]
    for i in range(4, 44):
        word = words[i - 1]
        if i % 4 == 0:
            word = [_SBOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= _RCON[i // 4 - 1]
        words.append([a ^ b for a, b in zip(words[i - 4], word, strict=True)])
    return np.array(words, np.uint8).reshape(11, 16).view("<u8").astype(np.uint64)


def _times_x(byte: int) -> int:
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


def _rcon() -> list[int]:
    constants = [1]
    while len(constants) < 10:
        constants.append(_times_x(constants[-1]))
    return constants


def _sbox() -> list[int]:
    """Inverse in GF(2^8), then the affine map, by walking the group with the generator 3 and its inverse."""
    box = [0x63] * 256
    forward = backward = 1
    for _ in range(255):
        forward ^= _times_x(forward)
        for shift in (1, 2, 4):
            backward ^= backward << shift & 0xFF
        backward ^= 0x09 if backward & 0x80 else 0
        twice = backward | backward << 8
        box[forward] = (twice ^ twice >> 7 ^ twice >> 6 ^ twice >> 5 ^ twice >> 4) & 0xFF ^ 0x63
    return box


_RCON = _rcon()
_SBOX = _sbox()
