from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from primia.cli.data import app
from primia.data.decode import decode
from primia.data.layout import list_folder
from primia.data.packed import read_shards
from primia.errors import ConfigError, DataError, PrimiaError


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def done(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.output


def failed(*words: str | Path) -> PrimiaError:
    error = run(*words).exception
    assert isinstance(error, PrimiaError)
    assert "\n" not in str(error)
    return error


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten patients with two images each."""
    rng = np.random.default_rng(1)
    for label in ("x", "y"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            name = f"person{ord(label)}{number // 2}_{label}_{number}.png"
            Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / "images" / label / name)
    return tmp_path / "images"


@pytest.mark.parametrize("verb", ["demo", "split", "pack", "stats", "show", "fetch mnist", "fetch pneumonia"])
def test_every_verb_has_an_example(verb: str) -> None:
    assert f"Example: primia-ray data {verb}" in done(*verb.split(), "--help")


def test_demo_writes_the_layout_and_says_what_to_run_next(tmp_path: Path) -> None:
    said = done("demo", "--output", tmp_path / "demo", "--sites", 1, "--images", 20, "--size", 48)
    assert f"next: primia-ray train --data {tmp_path / 'demo'}" in said and "synthetic" in said
    files = list_folder(tmp_path / "demo").files
    assert {(file.split, file.site) for file in files} == {(split, "site-1") for split in ("train", "validation", "test")}
    assert len(files) == 20
    with Image.open(files[0].path) as image:
        assert image.size == (48, 48)


def test_split_pack_stats_and_show_follow_one_another(tmp_path: Path, images: Path) -> None:
    said = done("split", images, "--output", tmp_path / "sites", "--sites", 2, "--seed", 3)
    assert "40 links" in said and "site-2" in said
    placed = list_folder(tmp_path / "sites").files
    owners = {(file.path.name.split("_")[0], file.site, file.split) for file in placed}
    assert len(owners) == 20

    said = done("pack", tmp_path / "sites", "--output", tmp_path / "packed", "--image-size", 16)
    assert "--set data.image_size=16 --set data.channels=1" in said
    assert sum(map(len, read_shards(tmp_path / "packed"))) == 40

    assert "packed at 16 pixels, 1 channel(s)" in done("stats", tmp_path / "packed")
    said = done("stats", images)
    mean = np.mean([decode(path, channels=1, image_size=64) for path in images.rglob("*.png")]) / 255
    assert "files of 30 x 20; statistics at 64 pixels" in said and f" {mean:.4f} " in said
    done("show", tmp_path / "sites", "--output", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 400


def test_split_can_copy(tmp_path: Path, images: Path) -> None:
    done("split", images, "--output", tmp_path / "sites", "--copy", "--split", "label-skew", "--alpha", 1)
    assert not any(file.path.is_symlink() for file in list_folder(tmp_path / "sites").files)


def test_pack_skips_and_names_bad_images(tmp_path: Path, images: Path) -> None:
    (images / "x" / "broken.png").write_text("no picture")
    error = failed("pack", images, "--output", tmp_path / "packed")
    assert "1 image(s) cannot be read" in str(error) and not (tmp_path / "packed").exists()
    said = done("pack", images, "--output", tmp_path / "packed", "--on-bad-image", "skip")
    assert "broken.png" in said and "1 images skipped" in said


def test_fetch_pneumonia_tells_where_and_sorts(tmp_path: Path) -> None:
    assert "10.17632/rscbjbr9sj" in done("fetch", "pneumonia")
    (tmp_path / "in").mkdir()
    for name in ("IM-0001-0001.jpeg", "person1_bacteria_1.jpeg", "person2_virus_1.jpeg"):
        Image.new("L", (9, 9)).save(tmp_path / "in" / name)
    said = done("fetch", "pneumonia", "--from", tmp_path / "in", "--output", tmp_path / "out")
    assert "train: 1 normal, 1 bacterial, 1 viral (published: 1349 normal" in said
    assert (tmp_path / "out" / "viral" / "person2_virus_1.jpeg").is_symlink()


@pytest.mark.parametrize("verb", ["split", "pack", "demo"])
def test_output_that_holds_something_is_refused(tmp_path: Path, images: Path, verb: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    source = [] if verb == "demo" else [images]
    options = ["--images", 12, "--size", 16] if verb == "demo" else []
    assert "exists and is not empty" in str(failed(verb, *source, "--output", tmp_path / "out", *map(str, options)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_bad_values_name_the_setting(tmp_path: Path, images: Path) -> None:
    error = failed("split", images, "--output", tmp_path / "out", "--patient-pattern", "no group")
    assert isinstance(error, ConfigError) and "data.patient_pattern" in str(error)
    error = failed("split", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert isinstance(error, DataError) and "no such folder" in str(error)


def test_packed_shards_cannot_be_dealt(tmp_path: Path, images: Path) -> None:
    done("pack", images, "--output", tmp_path / "packed")
    assert "holds packed shards" in str(failed("split", tmp_path / "packed", "--output", tmp_path / "out"))


def test_show_to_an_unwritable_place(tmp_path: Path, images: Path) -> None:
    assert "cannot be written" in str(failed("show", images, "--output", tmp_path / "no" / "sheet.png"))
