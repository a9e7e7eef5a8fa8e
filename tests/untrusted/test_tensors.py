from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from primia.untrusted.files import Unusable
from primia.untrusted.tensors import read_tensors

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3, np.int64), "none": np.zeros((0, 4), np.float32)}


def written(path: Path, header: dict[str, object], body: bytes = b"\0" * 24) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_arrays_come_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(save(ARRAYS))
    read = read_tensors(tmp_path / "a")
    assert read.keys() == ARRAYS.keys() and all(np.array_equal(read[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F32", "shape": [10**12], "data_offsets": [0, 24]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 24]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}, "negative"),
        ({"dtype": "F8", "shape": [24], "data_offsets": [0, 24]}, "type F8"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "24 bytes of arrays where its header says 16"),
        ({"dtype": "F32", "shape": "6", "data_offsets": [0, 24]}, "shape"),
        ([1], "Input should be"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(tmp_path: Path, entry: object, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        read_tensors(written(tmp_path / "a", {"a": entry}))


def test_cut_short_too_large_and_not_finite_are_refused(tmp_path: Path) -> None:
    content = save(ARRAYS)
    for data, limit, said in (
        (content[:20], 2**20, "cut short"),
        (b"", 2**20, "cut short"),
        ((2**63).to_bytes(8, "little") + content, 2**20, "cut short"),
        (content, 50, "more than 50"),
        (save({"a": np.array([1.0, np.nan], np.float32)}), 2**20, "not finite"),
    ):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(Unusable, match=said):
            read_tensors(tmp_path / "a", limit)
