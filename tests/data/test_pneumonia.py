from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from primia.data.layout import list_folder
from primia.data.pneumonia import image_class, sort_pneumonia
from primia.errors import DataError

Write = Callable[..., None]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("IM-0115-0001.jpeg", "normal"),
        ("NORMAL2-IM-0501-0001-0002.jpeg", "normal"),
        ("person1_bacteria_1.jpeg", "bacterial"),
        ("person1_virus_6.jpeg", "viral"),
        ("person1_other_6.jpeg", None),
    ],
)
def test_class_from_the_file_name(name: str, label: str | None) -> None:
    assert image_class(name) == label


@pytest.fixture
def download(tmp_path: Path, write_images: Write) -> Path:
    root = tmp_path / "chest_xray"
    write_images(root, "train/NORMAL", names=["IM-0115-0001.png", "NORMAL2-IM-0501-0001.png"])
    write_images(root, "train/PNEUMONIA", names=["person1_bacteria_1.png", "person1_virus_6.png", "strange.png"])
    write_images(root, "test/PNEUMONIA", names=["person9_virus_1.png"])
    write_images(root, "chest_xray/train/NORMAL", names=["IM-0115-0001.png"])
    write_images(root, "__MACOSX/train/NORMAL", names=["._IM-0115-0001.png"])
    return root


@pytest.mark.parametrize("copy", [True, False])
def test_sorts_by_name_and_keeps_the_test_split_apart(download: Path, tmp_path: Path, copy: bool) -> None:
    found = sort_pneumonia(download, tmp_path / "out", copy=copy)
    assert found.counts == {"train": {"normal": 2, "bacterial": 1, "viral": 1}, "test": {"normal": 0, "bacterial": 0, "viral": 1}}
    assert found.unexpected == ("train/PNEUMONIA/strange.png",) and found.repeated == 1 and found.images == 5
    listing = list_folder(tmp_path / "out")
    assert listing.classes == ("bacterial", "normal", "viral")
    assert {(file.split, file.site) for file in listing.files} == {("", ""), ("test", "central")}
    assert all(file.path.is_symlink() != copy and file.path.exists() for file in listing.files)


def test_report_says_what_was_published(download: Path, tmp_path: Path) -> None:
    lines = sort_pneumonia(download, tmp_path / "out", copy=False).report()
    assert lines[0] == "train: 2 normal, 1 bacterial, 1 viral (published: 1349 normal, 2538 bacterial, 1345 viral)"
    assert "1 files lie in the download twice" in lines[2] and "strange.png" in lines[3]


def test_nothing_recognised(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "in", "x")
    with pytest.raises(DataError, match="no file named like"):
        sort_pneumonia(tmp_path / "in", tmp_path / "out", copy=False)
    assert not (tmp_path / "out").exists()


def test_real_training_split(shared_data: Path, tmp_path: Path) -> None:
    found = sort_pneumonia(shared_data / "chest_xray", tmp_path / "out", copy=False)
    assert found.counts["train"] == {"normal": 1341, "bacterial": 2530, "viral": 1345}
    assert not found.unexpected and not found.repeated
