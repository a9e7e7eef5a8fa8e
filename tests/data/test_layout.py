from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from primia.data.layout import is_packed, list_folder
from primia.errors import DataError

Write = Callable[..., None]


def places(root: Path) -> set[tuple[str, str, str]]:
    return {(file.split, file.site, file.label) for file in list_folder(root).files}


def test_splits_of_sites(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/a/x", "train/a/y", "train/b/x", "train/b/y", "test/a/x", "test/a/y", "validation/b/x")
    assert places(tmp_path) == {
        ("train", "a", "x"), ("train", "a", "y"), ("train", "b", "x"), ("train", "b", "y"),
        ("test", "a", "x"), ("test", "a", "y"), ("validation", "b", "x"),
    }  # fmt: skip


def test_primias_workers_with_central_validation(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "worker1/x", "worker1/y", "worker2/x", "worker2/y", "validation/x", "validation/y", "test/x")
    assert places(tmp_path) == {
        ("", "worker1", "x"), ("", "worker1", "y"), ("", "worker2", "x"), ("", "worker2", "y"),
        ("validation", "central", "x"), ("validation", "central", "y"), ("test", "central", "x"),
    }  # fmt: skip


def test_flat_classes(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    listing = list_folder(tmp_path)
    assert listing.classes == ("x", "y")
    assert {(file.split, file.site) for file in listing.files} == {("", "")}
    assert len(listing.files) == 8


def test_one_site_with_its_splits(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/x", "train/y", "validation/x", "test/y")
    assert {file.site for file in list_folder(tmp_path).files} == {"site"}


def test_links_are_followed_and_hidden_files_ignored(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "store", "x", names=["one.png"])
    write_images(tmp_path / "root", "y", names=["._two.PNG", ".hidden.png", "two.PNG"])
    (tmp_path / "root" / "y" / "notes.txt").write_text("not an image")
    (tmp_path / "root" / "x").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "root" / "y" / "three.jpg").symlink_to(tmp_path / "store" / "x" / "one.png")
    assert [file.path.name for file in list_folder(tmp_path / "root").files] == ["one.png", "three.jpg", "two.PNG"]


def test_classes_file_names_all_and_their_order(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/a/x", "train/b/y")
    (tmp_path / "classes.txt").write_text("z\ny\nx\n")
    assert list_folder(tmp_path).classes == ("z", "y", "x")


def test_settings_outrank_the_classes_file(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    assert list_folder(tmp_path, ["y", "x"]).classes == ("y", "x")


def error(root: Path, classes: tuple[str, ...] = ()) -> str:
    with pytest.raises(DataError) as caught:
        list_folder(root, classes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_folder(tmp_path: Path) -> None:
    assert "nowhere: no such folder" in error(tmp_path / "nowhere")


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be listed as a folder" in error(tmp_path / "file")


def test_empty_folder(tmp_path: Path) -> None:
    assert "has no class folders" in error(tmp_path)


def test_images_without_class_folders(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ".")
    assert "holds images but no class folders" in error(tmp_path)


def test_class_without_image(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "a/x", "a/y", "b/x")
    (tmp_path / "b" / "y").mkdir()
    assert "no image of class 'y' at site 'b'" in error(tmp_path)


def test_sites_with_different_classes(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "a/x", "a/y", "b/x", "b/z")
    message = error(tmp_path)
    assert "class 'z' is missing at site 'a'" in message and "classes.txt" in message


def test_class_that_was_not_declared(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y", "z")
    assert "class 'z' is none of 'x', 'y'" in error(tmp_path, ("x", "y"))


def test_site_without_class_folders(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "a/x", "a/y")
    (tmp_path / "b").mkdir()
    assert f"{tmp_path / 'b'}: has no class folders" in error(tmp_path)


def test_single_class(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x")
    assert "only class 'x'" in error(tmp_path)


def test_something_beside_train(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/x", "train/y", "val/x")
    assert "has train and also 'val'" in error(tmp_path)


def test_sites_in_one_split_only(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/x", "train/y", "test/a/x", "test/a/y")
    assert "has sites, train has none" in error(tmp_path)


def test_only_test_images(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "test/x", "test/y")
    assert "has no training images" in error(tmp_path)


def test_reserved_site_name(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "central/x", "central/y")
    assert "rename this site" in error(tmp_path)


def test_dicom_is_named(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    (tmp_path / "y" / "scan.DCM").write_bytes(b"")
    assert "scan.DCM: DICOM files are not supported yet" in error(tmp_path)


def test_folder_that_is_a_link_to_nothing(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    (tmp_path / "z").symlink_to(tmp_path / "gone")
    assert "z: a link to nothing" in error(tmp_path)


def test_packed_folder_is_told_from_images(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "train/x", "train/y")
    assert not is_packed(tmp_path)
    (tmp_path / "train" / "a.arrow").write_bytes(b"")
    assert is_packed(tmp_path)
