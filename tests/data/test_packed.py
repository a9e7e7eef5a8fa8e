from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.data.catalogue import Catalogue
from primia.data.decode import BadImage
from primia.data.packed import new_folder, pack, packed_catalogue, read_notes, read_shards
from primia.errors import DataError

Make = Callable[..., Catalogue]
SITES, SPLITS = ["a", "a", "b", "b", "a"], ["train", "train", "train", "test", ""]


def read_but_not(*bad: int) -> Callable[[int], NDArray[np.uint8]]:
    def read(index: int) -> NDArray[np.uint8]:
        if index in bad:
            raise BadImage(Path(f"{index}.png"), "broken")
        return np.full((1, 8, 8), index, dtype=np.uint8)

    return read


def test_a_shard_for_each_site_and_split_and_none_for_the_rest(tmp_path: Path, make_catalogue: Make) -> None:
    notes = pack(make_catalogue([0, 1, 0, 1, 1], sites=SITES, splits=SPLITS), tmp_path / "out", "error")
    shards = read_shards(tmp_path / "out")
    assert notes.shards == 3
    assert [(shard.split, shard.site, shard.images[:, 0, 0, 0].tolist()) for shard in shards] == [
        ("train", "a", [0, 1]), ("train", "b", [2]), ("test", "b", [3]),
    ]  # fmt: skip


def test_reads_back_as_the_same_catalogue(tmp_path: Path, make_catalogue: Make) -> None:
    made = make_catalogue([0, 1, 0], sites=["a", "a", "b"], splits=["train"] * 3, patients=["p", "q", "p"], synthetic=True)
    pack(made, tmp_path / "out", "error")
    found = packed_catalogue(tmp_path / "out")
    assert (found.labels.tolist(), found.patients, found.sources) == ([0, 1, 0], ["p", "q", "p"], ["0.png", "1.png", "2.png"])
    assert found.places() == made.places() and found.synthetic
    assert np.array_equal(found.read(2), made.read(2))


def test_bad_images_are_counted_and_named_and_nothing_is_left(tmp_path: Path, make_catalogue: Make) -> None:
    made = make_catalogue([0, 1, 0, 1, 1], sites=SITES, splits=SPLITS, read=read_but_not(1, 3))
    made = made.with_places(["a"] * 5, ["train"] * 5)
    with pytest.raises(DataError, match=r"2 image\(s\) cannot be read: 1\.png \(broken\); 3\.png \(broken\)\."):
        pack(made, tmp_path / "out", "error")
    assert list(tmp_path.iterdir()) == []


def test_bad_images_are_left_out_and_noted(tmp_path: Path, make_catalogue: Make) -> None:
    made = make_catalogue([0, 1, 0, 1], sites=["a"] * 4, splits=["train"] * 4, read=read_but_not(1))
    pack(made, tmp_path / "out", "skip")
    assert read_notes(tmp_path / "out").skipped == ("1.png (broken)",)
    assert read_shards(tmp_path / "out")[0].images[:, 0, 0, 0].tolist() == [0, 2, 3]


def test_a_site_of_bad_images_only_is_an_error(tmp_path: Path, make_catalogue: Make) -> None:
    made = make_catalogue([0, 1, 0], sites=["a", "b", "b"], splits=["train"] * 3, read=read_but_not(0))
    with pytest.raises(DataError, match="no image can be read for site 'a'"):
        pack(made, tmp_path / "out", "skip")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_leaves_nothing(tmp_path: Path, make_catalogue: Make) -> None:
    def read(index: int) -> NDArray[np.uint8]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(make_catalogue([0, 1], sites=["a", "a"], splits=["train"] * 2, read=read), tmp_path / "out", "error")
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_number_of_images(tmp_path: Path, make_catalogue: Make) -> None:
    seen: list[tuple[str, int, int]] = []
    labels = [0, 1] * 70
    made = make_catalogue(labels, sites=["a"] * 140, splits=["train"] * 140)
    pack(made, tmp_path / "out", "error", lambda what, done, total: seen.append((what, done, total)))
    assert [done for _, done, _ in seen] == [64, 128, 140] and seen[-1][2] == 140


@pytest.fixture
def packed(tmp_path: Path, make_catalogue: Make) -> Path:
    pack(make_catalogue([0, 1, 0, 1], sites=["a", "a", "b", "b"], splits=["train"] * 4), tmp_path / "out", "error")
    return tmp_path / "out"


def test_missing_shard_is_an_error(packed: Path) -> None:
    (packed / "train" / "a.arrow").unlink()
    with pytest.raises(DataError, match="1 of 2 shards are here"):
        read_shards(packed)


def test_renamed_shard_is_an_error(packed: Path) -> None:
    (packed / "train" / "a.arrow").rename(packed / "train" / "c.arrow")
    with pytest.raises(DataError, match=r"c\.arrow: was packed as train/a\.arrow"):
        read_shards(packed)


def test_shards_of_different_kinds_are_an_error(packed: Path, tmp_path: Path, make_catalogue: Make) -> None:
    other = make_catalogue([0, 1], sites=["c", "c"], splits=["train"] * 2, synthetic=True)
    pack(other, tmp_path / "other", "error")
    (tmp_path / "other" / "train" / "c.arrow").rename(packed / "train" / "c.arrow")
    with pytest.raises(DataError, match="differ from those of"):
        read_shards(packed)


def test_new_folder_refuses_one_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(DataError, match="exists and is not empty"), new_folder(tmp_path):
        pass
    assert (tmp_path / "kept").exists()


def test_new_folder_in_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"), new_folder(tmp_path / "file" / "out"):
        pass
