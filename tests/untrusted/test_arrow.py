from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from primia.untrusted.arrow import check_mappable
from primia.untrusted.files import Unusable

BATCH = pa.record_batch({"a": pa.array([0] * 100_000), "b": pa.array(["x"] * 100_000)})


def write(path: Path, *batches: pa.RecordBatch, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def test_one_plain_batch_may_be_mapped(tmp_path: Path) -> None:
    check_mappable(write(tmp_path / "a", BATCH))


def test_what_takes_new_memory_when_it_is_read_may_not(tmp_path: Path) -> None:
    coded = pa.record_batch({"a": BATCH.column("b").dictionary_encode()})
    for path, said in (
        (write(tmp_path / "zstd", BATCH, compression="zstd"), "compressed"),
        (write(tmp_path / "two", BATCH, BATCH), "2 record batches"),
        (write(tmp_path / "coded", coded), "dictionaries"),
    ):
        with pytest.raises(Unusable, match=said):
            check_mappable(path)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(Unusable, match="no regular file"):
        check_mappable(tmp_path / "a")
