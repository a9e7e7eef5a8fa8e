"""What lies in a site box, or was taken out of one, is opened by no general command."""

from __future__ import annotations

import inspect
import json
import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pyarrow as pa
import pytest
import typer
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from primia.audits.subject import Subject
from primia.cli import data as data_command
from primia.cli.main import app
from primia.config.settings import DataSettings, ModelSettings, Settings
from primia.consent import mock
from primia.consent.box import SiteBox
from primia.consent.boxes import create_boxes
from primia.data.closed import box_around, is_box
from primia.data.layout import read_classes
from primia.data.packed import new_folder, read_shards
from primia.data.prepare import prepare, prepare_evaluation
from primia.data.shard import Shard
from primia.data.sources import open_source
from primia.errors import ConsentError, PrimiaError
from primia.inference import output
from primia.inference.certificates import make_certificates
from primia.inference.images import find_images
from primia.inference.keystore import KeyStore
from primia.models.file import load_model
from primia.models.pretrained import load_pretrained
from primia.models.registry import build_model
from primia.report import comparison_output
from primia.runs.folder import RunFolder
from primia.runs.results import RunResults
from primia.search.folder import SweepFolder
from primia.search.space.space import Space
from primia.search.tune import warm_start

pack = runpy.run_path(str(Path(__file__).parents[1] / "consent" / "test_boxes.py"))["pack"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "LEAST_IMAGES", 8)
        create_boxes(root / "boxes", pack(root / "packed", "north", "south", splits=("train", "validation", "test")))
    return root / "boxes"


@pytest.fixture
def boxes(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "boxes"))


def private(box: Path, split: str = "train") -> Path:
    return SiteBox.open(box).shard(split, dry_run=False)


def old(box: Path) -> None:
    """Take the marks away, as a box of an earlier version has none."""
    for path in box.rglob("private/**/*.arrow"):
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batch = reader.get_batch(0)
            metadata = {key: value for key, value in batch.schema.metadata.items() if key != b"box"}
            batch = pa.record_batch([pa.concat_arrays([column]) for column in batch.columns], schema=batch.schema.with_metadata(metadata))
            content = pa.BufferOutputStream()
            with pa.ipc.new_file(content, batch.schema) as writer:
                writer.write_batch(batch)
        path.write_bytes(content.getvalue().to_pybytes())


def inside(boxes: Path, tmp_path: Path) -> Path:
    return private(boxes / "north").parents[1]


def packed_again(boxes: Path, tmp_path: Path) -> Path:
    root = private(boxes / "north").parents[1]
    copy = tmp_path / "copy"
    for split in ("train", "validation", "test"):
        (copy / split).mkdir(parents=True)
        shutil.copy(root / split / "north.arrow", copy / split / "north.arrow")
    return copy


def hard_linked(boxes: Path, tmp_path: Path) -> Path:
    root = private(boxes / "north").parents[1]
    for split in ("train", "validation", "test"):
        (tmp_path / "hard" / split).mkdir(parents=True)
        os.link(root / split / "north.arrow", tmp_path / "hard" / split / "north.arrow")
    return tmp_path / "hard"


def linked_folder(boxes: Path, tmp_path: Path) -> Path:
    (tmp_path / "linked").symlink_to(inside(boxes, tmp_path))
    return tmp_path / "linked"


def linked_splits(boxes: Path, tmp_path: Path) -> Path:
    (tmp_path / "splits").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "splits" / split).symlink_to(inside(boxes, tmp_path) / split)
    return tmp_path / "splits"


def linked_sites(boxes: Path, tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        (tmp_path / "sites" / split).mkdir(parents=True)
        for site in ("north", "south"):
            (tmp_path / "sites" / split / f"{site}.arrow").symlink_to(private(boxes / site, split))
    return tmp_path / "sites"


def with_dots(boxes: Path, tmp_path: Path) -> Path:
    (tmp_path / "aside").mkdir()
    return tmp_path / "aside" / ".." / inside(boxes, tmp_path).relative_to(tmp_path)


WAYS = [inside, packed_again, hard_linked, linked_folder, linked_splits, linked_sites, with_dots]
OLD_WAYS = [inside, linked_folder, linked_splits, linked_sites, with_dots]


def settings(path: Path) -> DataSettings:
    return DataSettings(source="folder", path=path, image_size=8, channels=1)


def evaluation(path: Path, cache: Path) -> object:
    return prepare_evaluation(path, classes=("cat", "dog"), channels=1, image_size=8, cache=cache)


@pytest.mark.parametrize(
    ("way", "marked"),
    [*((way, True) for way in WAYS), *((way, False) for way in OLD_WAYS)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_way_leads_into_a_box(boxes: Path, tmp_path: Path, way: Callable[[Path, Path], Path], marked: bool) -> None:
    if not marked:
        for site in ("north", "south"):
            old(boxes / site)
    data = way(boxes, tmp_path)
    for read in (
        lambda: read_shards(data),
        lambda: open_source(settings(data)),
        lambda: prepare(settings(data), tmp_path / "cache"),
        lambda: evaluation(data, tmp_path / "cache"),
        lambda: find_images(data, classes=("cat", "dog"), channels=1, image_size=8),
        lambda: create_boxes(tmp_path / "taken", data),
    ):
        with pytest.raises(PrimiaError) as refused:
            read()
        assert isinstance(refused.value, ConsentError) or read.__code__.co_names[0] == "find_images"
    for command in (
        ["show", data, "-o", tmp_path / "sheet.png"],
        ["stats", data],
        ["pack", data, "-o", tmp_path / "out", "--image-size", "8"],
    ):
        result = CliRunner().invoke(data_command.app, list(map(str, command)))
        assert isinstance(result.exception, ConsentError) and not result.stdout, command
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in ("cache", "taken", "sheet.png", "out")) == []


def functions(group: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Callable[..., object]]]:
    """Every command's words and function."""
    for each in group.registered_commands:
        assert each.callback
        yield (*words, each.name or each.callback.__name__), each.callback
    for inner in group.registered_groups:
        assert inner.typer_instance and inner.name
        yield from functions(inner.typer_instance, (*words, inner.name))


def is_path(annotation: Any) -> bool:
    return annotation is Path or any(map(is_path, get_args(annotation) if get_origin(annotation) else ()))


def path_parameters() -> list[tuple[tuple[str, ...], str]]:
    found = []
    for words, function in functions(app):
        kinds = inspect.signature(function, eval_str=True).parameters
        found += [(words, name) for name, parameter in kinds.items() if is_path(parameter.annotation)]
    return found


MAY_BE_BOXES = {
    (("train",), "data"),
    (("tune",), "data"),
    *((("site", name), "box") for name in ("init", "show", "grant", "revoke", "pin")),
}
"""What a site's owner opens, and what is opened with the owner's grant."""


def call(words: tuple[str, ...], name: str, path: Path, elsewhere: Path) -> object:
    """What a command ends with where the parameter is ``path``, and whatever else it needs is given."""
    command: Any = get_command(app)
    for word in words:
        command = command.commands[word]
    line = [*words]
    for parameter in command.params:
        if parameter.name == name or parameter.required:
            value = path if parameter.name == name else elsewhere / str(parameter.name)
            line += [str(value)] if parameter.param_type_name == "argument" else [parameter.opts[0], str(value)]
    return CliRunner().invoke(app, line).exception


@pytest.mark.parametrize(("words", "name"), path_parameters(), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_no_path_of_any_command_lies_in_a_box(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(boxes / "north" / "syft")
    before = sorted(tmp_path.rglob("*"))
    for path in (boxes / "north" / "new", private(boxes / "north").parents[1], tmp_path / "linked" / "file.csv"):
        if (words, name) not in MAY_BE_BOXES:
            assert isinstance(call(words, name, path, tmp_path), ConsentError), path
            assert sorted(tmp_path.rglob("*")) == before


def test_no_setting_leads_into_a_box(boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inner = boxes / "north" / "new"
    before = sorted(boxes.rglob("*"))
    searched = "search.training.learning_rate=uniform(0.1, 1)"
    for command in (["train"], ["tune", "--set", searched]):
        for given in ("run.output", "data.cache", "data.path"):
            source = ["--set", "data.source=folder"] if given == "data.path" else []
            result = CliRunner().invoke(app, [*command, *source, "--set", f"{given}={inner}"])
            assert isinstance(result.exception, ConsentError), (command, given)
        result = CliRunner().invoke(app, [*command, "--data", str(private(boxes / "north").parents[1])])
        assert isinstance(result.exception, ConsentError), command
    assert isinstance(CliRunner().invoke(app, ["site", "init", str(inner), "--data", str(tmp_path)]).exception, ConsentError)
    assert sorted(boxes.rglob("*")) == before


def test_readers_and_writers_refuse_by_themselves(boxes: Path, tmp_path: Path) -> None:
    inner = boxes / "north" / "new"
    before = sorted(boxes.rglob("*"))
    model = build_model(ModelSettings(), classes=2, channels=1, image_size=16, seed=0)
    space = Space.of(Settings.model_validate({"search": {"space": {"training.learning_rate": "uniform(0.1, 1)"}}}))
    uses: list[Callable[[], object]] = [
        lambda: load_pretrained(model, str(inner)),
        lambda: load_model(inner),
        lambda: RunFolder.open(inner),
        lambda: RunFolder.create(inner, Settings(), "f"),
        lambda: SweepFolder.open(inner),
        lambda: SweepFolder.create(inner, Settings(), "f"),
        lambda: RunResults.read(inner),
        lambda: Subject.open(inner, lambda settings: pytest.fail("images were looked for")),
        lambda: output.check_output(inner / "p.csv"),
        lambda: comparison_output.check_output(inner / "c.csv"),
        lambda: make_certificates(inner),
        lambda: KeyStore.open(inner),
        lambda: warm_start._of_file(boxes / "north" / "box.json", space),
    ]
    for use in uses:
        with pytest.raises(ConsentError, match="lies in the site box"):
            use()
    assert sorted(boxes.rglob("*")) == before


def test_the_shard_itself_names_its_site_and_what_to_do(boxes: Path, tmp_path: Path) -> None:
    path = private(boxes / "north")
    with pytest.raises(ConsentError, match=r"lies in the site box .*north, .*primia-ray train --data BOXES"):
        Shard.open(path)
    shutil.copy(path, tmp_path / "north.arrow")
    with pytest.raises(ConsentError, match=r"belongs to the site box of site 'north' \(owner@north\.example\)"):
        Shard.open(tmp_path / "north.arrow")


def test_the_gate_opens_what_lies_in_its_own_box_alone(boxes: Path, tmp_path: Path) -> None:
    path = private(boxes / "north")
    assert len(Shard.open(path, box=boxes / "north")) == 4
    shutil.copy(path, tmp_path / "north.arrow")
    for other, box in ((path, boxes / "south"), (tmp_path / "north.arrow", boxes / "north")):
        with pytest.raises(ConsentError, match="does not lie in the site box"):
            Shard.open(other, box=box)


def test_the_mark_changes_neither_header_nor_content(boxes: Path, made: Path) -> None:
    (original,) = (shard for shard in read_shards(made.parent / "packed") if (shard.split, shard.site) == ("train", "north"))
    marked = Shard.open(private(boxes / "north"), box=boxes / "north")
    assert marked.header == original.header and np.array_equal(marked.images, original.images)
    assert (marked.patients, marked.sources) == (original.patients, original.sources)


def test_a_mock_half_carries_no_mark(boxes: Path, tmp_path: Path) -> None:
    shutil.copy(SiteBox.open(boxes / "north").shard("train", dry_run=True), tmp_path / "north.arrow")
    assert Shard.open(tmp_path / "north.arrow").synthetic


def test_links_to_images_and_lists_in_a_box_are_refused(boxes: Path, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (boxes / "north" / label).mkdir()
        (tmp_path / "images" / label).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(boxes / "north" / label / name)
            (tmp_path / "images" / label / name).symlink_to(boxes / "north" / label / name)
    with pytest.raises(ConsentError, match="lies in the site box"):
        open_source(settings(tmp_path / "images"))
    with pytest.raises(ConsentError, match="lies in the site box"):
        find_images(boxes / "north" / "cat" / "a.png", classes=("cat", "dog"), channels=1, image_size=8)
    (boxes / "north" / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "images" / "classes.txt").symlink_to(boxes / "north" / "names.txt")
    with pytest.raises(ConsentError, match="lies in the site box"):
        read_classes(tmp_path / "images")


def test_nothing_is_written_into_a_box(boxes: Path) -> None:
    demo = Settings.model_validate({"data": {"demo_images": 12, "image_size": 8}}).data
    with pytest.raises(ConsentError, match="lies in the site box"):
        prepare(demo, boxes / "north" / "cache")
    with pytest.raises(ConsentError, match="lies in the site box"), new_folder(boxes / "north" / "packed"):
        pass
    assert not (boxes / "north" / "cache").exists()


def test_a_box_is_known_by_its_card_or_by_what_lies_beside_it(boxes: Path, tmp_path: Path) -> None:
    box, shard = boxes / "north", private(boxes / "north")
    assert box_around(shard) == box.resolve() == box_around(box) and box_around(boxes) is None
    (box / "box.json").write_text("{")
    assert is_box(box)
    (box / "box.json").write_text(json.dumps({"format": "primia-site-box", "version": 99}))
    assert is_box(box)
    (box / "box.json").unlink()
    assert is_box(box)
    (tmp_path / "box.json").write_text(json.dumps({"format": "a game's"}))
    assert not is_box(tmp_path)
