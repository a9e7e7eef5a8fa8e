"""Arrays from strangers: safetensors files whose header is checked before anything is allocated by it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load

from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable, printable, read_file

LIMIT = 2**30
"""Bytes of the largest file: ResNet-18 with a server's momenta is a fifth of it."""

HEADER_LIMIT = 2**20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}


class Tensor(NamedTuple):
    """What a header says of one array."""

    dtype: str
    shape: tuple[int, ...]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: str
    shape: list[int] = Field(max_length=8)
    data_offsets: list[int] = Field(min_length=2, max_length=2)


def read_tensors(path: Path, limit: int = LIMIT) -> dict[str, NDArray[Any]]:
    """The arrays of a file, by name; all floating-point values are finite.

    Raises:
        OSError: it is missing or not readable.
        Unusable: a link or a device, larger than ``limit``, or no safetensors file.
    """
    data = read_file(path, limit)
    check_header(data)
    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise Unusable(f"no safetensors file: {printable(error)}") from None
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Unusable(f"{printable(name, 80)} holds numbers that are not finite")
    return arrays


def check_header(data: bytes) -> Mapping[str, Tensor]:
    """What is in a safetensors file, once types, shapes and offsets are found to agree with its size.

    Raises:
        Unusable: they do not.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(HEADER_LIMIT, len(data) - 8):
        raise Unusable("cut short, or no safetensors file")
    header = parse_object(data[8 : 8 + size].rstrip(b" "))
    header.pop("__metadata__", None)
    entries: dict[str, _Entry] = {name: validated(_Entry, entry) for name, entry in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        end = _checked_end(printable(name, 80), entry, end)
    if end != len(data) - 8 - size:
        raise Unusable(f"{len(data) - 8 - size} bytes of arrays where its header says {end}")
    return {name: Tensor(entry.dtype, tuple(entry.shape)) for name, entry in entries.items()}


def _checked_end(name: str, entry: _Entry, start: int) -> int:
    """Where an array ends that must begin at ``start``."""
    if entry.dtype not in _SIZES:
        raise Unusable(f"{name} is of type {printable(entry.dtype, 20)}, which is not read")
    if any(axis < 0 for axis in entry.shape):
        raise Unusable(f"{name} has a negative size")
    begin, end = entry.data_offsets
    if begin != start or end - begin != prod(entry.shape) * _SIZES[entry.dtype]:
        raise Unusable(f"{name} has offsets that do not fit its shape")
    return end
