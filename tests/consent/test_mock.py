from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from primia.consent.mock import LEAST_IMAGES, check_mock, write_mock
from primia.data.shard import Row, Shard, ShardHeader, write_shard
from primia.errors import ConsentError

HEADER = ShardHeader("north", "train", ("cat", "normal", "viral"), 1, 16, False, "of-the-private-half")


def made(path: Path, header: ShardHeader = HEADER) -> Shard:
    assert write_mock(path / "mock.arrow", header) == len(Shard.open(path / "mock.arrow"))
    return Shard.open(path / "mock.arrow")


def test_a_mock_has_the_form_of_its_header_and_says_that_it_is_drawn(tmp_path: Path) -> None:
    shard = made(tmp_path)
    assert shard.header == replace(HEADER, synthetic=True, fingerprint="mock")
    assert shard.class_counts().tolist() == [22, 22, 22] and len(shard) >= LEAST_IMAGES
    assert all(patient.startswith("mock-") for patient in shard.patients) and len(set(shard.patients)) == len(shard)


@pytest.mark.parametrize("change", [{}, {"synthetic": True}, {"fingerprint": "mock"}])
def test_only_a_mock_half_passes_for_one(tmp_path: Path, change: dict[str, object]) -> None:
    check_mock(made(tmp_path))
    rows = [Row(np.zeros((1, 16, 16), np.uint8), 0, "p", "p.png")]
    write_shard(tmp_path / "private.arrow", replace(HEADER, **change), rows)  # type: ignore[arg-type]
    with pytest.raises(ConsentError, match=r"private\.arrow: no mock half, and a dry run opens nothing else; .* site 'north'") as error:
        check_mock(Shard.open(tmp_path / "private.arrow"))
    assert "\n" not in str(error.value)


def test_pictures_differ_by_image_site_and_split_and_come_again(tmp_path: Path) -> None:
    shard = made(tmp_path)
    assert len({image.tobytes() for image in shard.images}) == len(shard)
    first = shard.images.copy()
    np.testing.assert_array_equal(made(tmp_path).images, first)
    for other in (replace(HEADER, site="south"), replace(HEADER, split="test")):
        assert not (made(tmp_path, other).images == first).all(axis=(1, 2, 3)).any()


def test_known_findings_are_drawn_as_such_whatever_their_place(tmp_path: Path) -> None:
    """The second class, normal, has clearer lungs than the third, viral."""
    shard = made(tmp_path, replace(HEADER, image_size=32))
    means = [shard.images[shard.labels == label, 0, 8:24, 4:28].mean() for label in range(3)]
    assert means[1] < means[2]


@pytest.mark.parametrize(("classes", "channels", "size", "each"), [(("x",), 3, 8, 64), (tuple("abcdefghijklmnopqrst"), 1, 8, 4)])
def test_any_number_of_classes_and_channels(tmp_path: Path, classes: tuple[str, ...], channels: int, size: int, each: int) -> None:
    shard = made(tmp_path, replace(HEADER, classes=classes, channels=channels, image_size=size))
    assert shard.images.shape[1:] == (channels, size, size) and set(shard.class_counts().tolist()) == {each}
    assert (shard.images == shard.images[:, :1]).all()


def test_large_pictures_are_enlarged(tmp_path: Path) -> None:
    shard = made(tmp_path, replace(HEADER, classes=tuple("abcdefghijklmnopq"), image_size=300))
    assert shard.images.shape == (68, 1, 300, 300) and shard.images.std() > 20
