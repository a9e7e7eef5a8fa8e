"""Independent random streams, keyed by a seed and by what they are for."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """A generator keyed by ``seed`` and the texts of ``purpose``; the same key gives the same draws on every machine."""
    key = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8")))
