from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from primia.config.settings import DataSettings
from primia.data.catalogue import Catalogue
from primia.data.export import demo_tree, link_tree, write_tree
from primia.data.layout import list_folder
from primia.data.prepare import place
from primia.data.sources import open_source
from primia.errors import DataError

Write = Callable[..., None]


def demo() -> Catalogue:
    settings = DataSettings(sites=2, demo_images=12, image_size=32)
    return place(open_source(settings), settings)


def test_demo_tree_is_read_back_with_its_sites_splits_patients_and_marks(tmp_path: Path) -> None:
    made = demo()
    demo_tree(made, tmp_path / "demo")
    found = open_source(DataSettings(source="folder", path=tmp_path / "demo", image_size=32))
    written = {(place, label, patient) for place, label, patient in zip(made.places(), made.labels.tolist(), made.patients, strict=True)}
    assert {
        (place, label, patient) for place, label, patient in zip(found.places(), found.labels.tolist(), found.patients, strict=True)
    } == written
    assert found.synthetic and found.classes == made.classes
    for file in list_folder(tmp_path / "demo").files:
        with Image.open(file.path) as image:
            assert image.info["Synthetic"] == "true" and image.mode == "L"


def split_of(root: Path) -> Catalogue:
    settings = DataSettings(source="folder", path=root, sites=2)
    return place(open_source(settings), settings)


@pytest.mark.parametrize("copy", [True, False])
def test_link_tree_copies_or_links(tmp_path: Path, write_images: Write, copy: bool) -> None:
    write_images(tmp_path / "in", "x", "y", names=[f"{n}.png" for n in range(10)])
    link_tree(split_of(tmp_path / "in"), tmp_path / "in", tmp_path / "out", copy=copy)
    files = [file.path for file in list_folder(tmp_path / "out").files]
    assert len(files) == 20
    assert {path.is_symlink() for path in files} == {not copy}
    assert all(path.read_bytes() == (tmp_path / "in" / path.parent.name / path.name).read_bytes() for path in files)
    assert (tmp_path / "out" / "classes.txt").read_text() == "x\ny\n"


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def write(index: int, path: Path) -> None:
        if index == 3:
            raise OSError(28, "No space left on device")
        path.write_text("")

    with pytest.raises(DataError, match="No space left"):
        write_tree(demo(), tmp_path / "out", write)
    assert list(tmp_path.iterdir()) == []
