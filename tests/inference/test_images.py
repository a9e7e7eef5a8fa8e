from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primia.data.decode import BadImage
from primia.errors import DataError
from primia.inference.images import InferenceImages, find_images

CLASSES = ("viral", "normal")


def put(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), 20 * (number + 1)).save(root / name, format="PNG")
    return root


def find(data: Path) -> InferenceImages:
    return find_images(data, classes=CLASSES, channels=1, image_size=8)


def error(data: Path) -> str:
    with pytest.raises(DataError) as caught:
        find(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_flat_folder_has_no_labels_and_the_order_of_its_file_names(tmp_path: Path) -> None:
    put(tmp_path, "b.PNG", "c.png", "a.png", "._a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = find(tmp_path)
    assert images.names == ("a.png", "b.PNG", "c.png") and len(images) == 3
    assert images.labels is None
    assert [images.read(index)[0, 0, 0] for index in range(3)] == [60, 20, 40]


def test_images_come_by_the_models_channels_and_size(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    image = find_images(tmp_path, classes=CLASSES, channels=3, image_size=16).read(0)
    assert (image.shape, image.dtype) == ((3, 16, 16), np.uint8)


def test_class_folders_give_labels_in_the_models_order(tmp_path: Path) -> None:
    images = find(put(tmp_path, "viral/b.png", "normal/z.png", "normal/a.png"))
    assert images.names == ("normal/a.png", "normal/z.png", "viral/b.png")
    assert images.labels is not None and images.labels.tolist() == [1, 1, 0]


def test_some_of_the_classes_are_enough(tmp_path: Path) -> None:
    images = find(put(tmp_path, "normal/a.png"))
    assert images.labels is not None and images.labels.tolist() == [1]


def test_order_is_that_of_the_whole_relative_path(tmp_path: Path) -> None:
    put(tmp_path, "a/x.png", "a b/x.png")
    assert find_images(tmp_path, classes=("a", "a b"), channels=1, image_size=8).names == ("a b/x.png", "a/x.png")


def test_one_file(tmp_path: Path) -> None:
    images = find(put(tmp_path, "normal/a.png", "normal/b.png") / "normal" / "b.png")
    assert (images.names, images.labels, images.root) == (("b.png",), None, tmp_path / "normal")
    assert images.read(0)[0, 0, 0] == 40


def test_an_image_that_cannot_be_read_is_found_and_raises_when_read(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_text("no image")
    (tmp_path / "d.png").symlink_to(tmp_path / "gone.png")
    images = find(tmp_path)
    for index in (1, 3):
        with pytest.raises(BadImage, match=images.names[index]):
            images.read(index)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_name_that_is_not_utf8_can_be_written_and_the_file_read(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"r\xf6ntgen.png"))
    images = find(tmp_path)
    assert images.names == ("r\\xf6ntgen.png",)
    assert images.read(0).shape == (1, 8, 8)


def test_images_beside_class_folders(tmp_path: Path) -> None:
    assert "holds images and also folders ('normal')" in error(put(tmp_path, "a.png", "normal/b.png"))


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    message = error(put(tmp_path, "normal/a.png", "healthy/b.png"))
    assert "'healthy' is none of the model's classes 'viral', 'normal'" in message and "flat folder" in message


def test_sites_or_splits_in_place_of_classes(tmp_path: Path) -> None:
    assert "'test', 'train' is none of the model's classes" in error(put(tmp_path, "train/normal/a.png", "test/normal/b.png"))


def test_folders_in_class_folders(tmp_path: Path) -> None:
    assert "normal: holds folders ('old')" in error(put(tmp_path, "normal/a.png", "normal/old/b.png"))


def test_a_class_folder_without_images(tmp_path: Path) -> None:
    (put(tmp_path, "normal/a.png") / "viral").mkdir()
    assert "no image of class 'viral'" in error(tmp_path)


def test_no_images(tmp_path: Path) -> None:
    assert f"{tmp_path}: no images here" in error(tmp_path)
    assert "no such folder" in error(tmp_path / "nowhere")


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "notes.txt: not an image file by its name" in error(tmp_path / "notes.txt")


@pytest.mark.parametrize("place", [".", "normal"])
def test_dicom_is_named(tmp_path: Path, place: str) -> None:
    scan = put(tmp_path, f"{place}/a.png") / place / "scan.DCM"
    scan.write_bytes(b"")
    assert "scan.DCM: DICOM files are not supported yet" in error(tmp_path)
    assert "scan.DCM: DICOM files are not supported yet" in error(scan)
