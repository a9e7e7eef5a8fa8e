from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from primia.data.shard import JoinedDataset, Row, Shard, ShardHeader, write_shard
from primia.errors import DataError

HEADER = ShardHeader("clinic", "train", ("x", "y"), channels=3, image_size=8, synthetic=True, fingerprint="f00d")


def rows(count: int, first: int = 0) -> list[Row]:
    rng = np.random.default_rng(first)
    return [Row(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8), index % 2, f"p{index // 2}", f"x/{index}.png") for index in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clinic.arrow"


class TestShard:
    def test_gives_back_what_was_written(self, path: Path) -> None:
        written = rows(5)
        assert write_shard(path, HEADER, written) == 5
        shard = Shard.open(path)
        assert np.array_equal(shard.images, np.stack([row.image for row in written]))
        assert shard.labels.dtype == np.int64 and shard.labels.tolist() == [0, 1, 0, 1, 0]
        assert shard.patients == ["p0", "p0", "p1", "p1", "p2"]
        assert shard.sources[4] == "x/4.png"
        assert shard.class_counts().tolist() == [3, 2]
        assert (shard.site, shard.split, shard.classes, shard.channels, shard.image_size, shard.synthetic) == (
            "clinic", "train", ("x", "y"), 3, 8, True,
        )  # fmt: skip

    def test_images_are_a_read_only_view_of_the_mapped_file(self, path: Path) -> None:
        write_shard(path, HEADER, rows(4))
        shard = Shard.open(path)
        assert not shard.images.flags.writeable and not shard.images.flags.owndata
        assert shard.images.flags.c_contiguous

    def test_gather_copies_in_the_order_asked_for(self, path: Path) -> None:
        write_shard(path, HEADER, rows(4))
        shard = Shard.open(path)
        batch = shard.gather(np.array([3, 1, 3]))
        assert np.array_equal(batch, shard.images[[3, 1, 3]])
        batch[:] = 0
        assert shard.images.any()

    def test_keeps_no_file_open(self, path: Path) -> None:
        write_shard(path, HEADER, rows(2))
        before = len(list(Path("/proc/self/fd").iterdir()))
        kept = [Shard.open(path) for _ in range(20)]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert kept[0].images.shape == (2, 3, 8, 8)

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_cut_short_is_an_error_that_names_the_file(self, path: Path, share: float) -> None:
        write_shard(path, HEADER, rows(6))
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"clinic\.arrow: cut short or not a shard"):
            Shard.open(path)

    def test_missing_is_an_error(self, path: Path) -> None:
        with pytest.raises(DataError, match="no such shard"):
            Shard.open(path)

    def test_other_arrow_file_is_an_error(self, path: Path) -> None:
        table = pa.table({"a": [1]})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(DataError, match="an Arrow file, but no shard"):
            Shard.open(path)


class TestWriteShard:
    def test_no_image_is_an_error_and_leaves_nothing(self, path: Path) -> None:
        with pytest.raises(DataError, match="no image can be read for site 'clinic' in train"):
            write_shard(path, HEADER, [])
        assert list(path.parent.iterdir()) == []

    def test_full_disk_is_an_error_and_leaves_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
            write_shard(path, HEADER, rows(3))
        assert list(path.parent.iterdir()) == []

    def test_interrupted_leaves_the_old_shard_as_it_was(self, path: Path) -> None:
        write_shard(path, HEADER, rows(2))
        before = path.read_bytes()

        def interrupted():  # type: ignore[no-untyped-def]
            yield rows(1)[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_shard(path, HEADER, interrupted())
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


class TestJoinedDataset:
    def test_is_its_parts_one_after_the_other(self, tmp_path: Path) -> None:
        shards = []
        for number, count in enumerate((3, 1, 4)):
            path = tmp_path / f"{number}.arrow"
            write_shard(path, HEADER, rows(count, first=number))
            shards.append(Shard.open(path))
        joined = JoinedDataset(shards)
        whole = np.concatenate([shard.images for shard in shards])
        order = np.array([7, 0, 3, 2, 6, 0, 5])
        assert len(joined) == 8
        assert joined.labels.tolist() == [0, 1, 0, 0, 0, 1, 0, 1]
        assert np.array_equal(joined.gather(order), whole[order])
