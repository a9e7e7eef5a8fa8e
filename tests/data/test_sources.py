from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from primia.config.settings import DataSettings
from primia.data import sources
from primia.data.sources import open_source
from primia.errors import ConfigError, DataError

Write = Callable[..., None]


def opened(path: Path, **fields: object):  # type: ignore[no-untyped-def]
    return open_source(DataSettings.model_validate({"source": "folder", "path": path, "image_size": 8, **fields}))


def test_folder_gives_labels_patients_and_images(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y", names=["person1_virus_1.png", "person1_virus_2.png", "odd.png"])
    catalogue = opened(tmp_path)
    assert catalogue.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert catalogue.sources[0] == "x/odd.png"
    assert list(catalogue.patients[:3]) == ["x/odd.png", "person1", "person1"]
    assert catalogue.read(1).tolist() == [[[20] * 8] * 8]
    assert not catalogue.synthetic
    (warning,) = catalogue.warnings
    assert "'auto' does not fit 2 of 6 files, the first being x/odd.png; each counts as its own patient" in warning


def test_synthetic_marker_in_the_root(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    (tmp_path / "SYNTHETIC.txt").write_text("drawn")
    assert opened(tmp_path).synthetic


def test_fingerprint_follows_names_sizes_and_times_not_the_place(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "in", "x", "y")
    before = opened(tmp_path / "in").fingerprint
    (tmp_path / "in").rename(tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint == before
    (tmp_path / "moved" / "x" / "a.png").touch()
    assert opened(tmp_path / "moved").fingerprint != before


def test_pattern_that_fits_some_files_is_a_warning(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y", names=["case1.png", "other.png"])
    (warning,) = opened(tmp_path, patient_pattern=r"case(\d+)").warnings
    assert r"'case(\\d+)' does not fit 2 of 4 files, the first being x/other.png" in warning


def test_pattern_that_fits_no_file(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, "x", "y")
    with pytest.raises(DataError, match="fits no file name"):
        opened(tmp_path, patient_pattern=r"case(\d+)")


def test_classes_of_the_demonstration_are_its_own() -> None:
    with pytest.raises(ConfigError, match="leave data"):
        open_source(DataSettings(classes=("a", "b")))


def test_folders_of_patients_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_images: Write) -> None:
    monkeypatch.setattr(sources, "CLASS_LIMIT", 2)
    write_images(tmp_path, "x", "y", "z")
    with pytest.raises(DataError, match="3 folders of classes, 2 are the most; are they those of patients"):
        opened(tmp_path)
