"""``primia-ray infer`` and ``primia.infer`` on a small untrained model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import primia
from primia import api
from primia.cli.inference_display import job_progress, show_agreement, show_costs
from primia.cli.main import app
from primia.cli.terminal import Terminal
from primia.config.settings import ModelSettings
from primia.data.statistics import Normalisation
from primia.errors import ConfigError, DataError, ModelError, RunError
from primia.models.file import ModelCard, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model

CLASSES = ("bacterial", "normal", "viral")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with an untrained model."""
    model = build_model(ModelSettings(), classes=3, channels=1, image_size=16, seed=1)
    flat = FlatSpec.of(model)
    card = ModelCard(ModelSettings(), CLASSES, 1, 16, Normalisation((0.5,), (0.2,)), synthetic=True, run="run", versions={})
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder, card, flat.state_dict(flat.parameters(model), flat.buffers(model)))
    return folder


def put(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["infer", *map(str, arguments)])


def test_a_flat_folder_gives_a_row_an_image_and_says_what_was_written(run: Path, here: Path) -> None:
    result = call(run, "--data", put(here / "flat", 5), "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert "5 images: 5 predicted\n" in result.stdout and "synthetic" in result.stdout and "MCC" not in result.stdout
    assert "predictions predictions.csv\nsummary     predictions.summary.json\nnext        primia-ray evaluate" in result.stdout
    rows = list(csv.DictReader((here / "predictions.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == [f"0{number}.png" for number in range(5)]
    assert all(sum(float(row[f"p_{name}"]) for name in CLASSES) == pytest.approx(1) for row in rows)


def test_class_folders_are_scored_as_evaluate_scores_them(run: Path, here: Path) -> None:
    put(here / "labelled" / "normal", 7)
    put(here / "labelled" / "viral", 4)
    result = call(run, "--data", "labelled", "-o", "p.parquet")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout and "MCC" in result.stdout and "over the 11 images predicted" in result.stdout
    expected = primia.evaluate(run, "labelled")
    metrics = json.loads((here / "p.summary.json").read_text())["metrics"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert metrics["confusion"] == expected["confusion"]


def test_json_prints_one_document_and_writes_only_on_request(run: Path, here: Path) -> None:
    put(here / "flat", 2)
    result = call(run, "--data", "flat", "--json")
    document = json.loads(result.stdout)
    assert document["summary"]["images"] == len(document["predictions"]) == 2
    assert document["summary"]["run"] == str(run) and document["summary"]["synthetic"] is True
    assert sorted(path.name for path in here.iterdir()) == ["flat", "run"]
    assert call(run, "--data", "flat", "--json", "--output", "p.json").exit_code == 0
    assert json.loads((here / "p.json").read_text())["predictions"] == document["predictions"]


def test_unreadable_images_are_named_ten_of_them_and_the_rest_go_on(run: Path, here: Path) -> None:
    put(here / "flat", 2)
    for number in range(12):
        (here / "flat" / f"[bad]{number:02}.png").write_text("no image")
    result = call(run, "--data", "flat")
    assert result.exit_code == 0, result.output
    assert "14 images: 2 predicted, 12 unreadable" in result.stdout
    assert "unreadable: [bad]09.png (its content is no image of a known format)" in result.stdout
    assert "[bad]10.png" not in result.stdout and "... and 2 more without a prediction" in result.stdout


def test_the_next_command_works_with_unreadable_images_too(run: Path, here: Path) -> None:
    (put(here / "la belled" / "normal", 1) / "bad.png").write_text("no image")
    assert "--data 'la belled' --on-bad-image skip " in call(run, "--data", "la belled").stdout


def test_an_existing_file_is_replaced_only_when_asked(run: Path, here: Path) -> None:
    put(here / "flat", 1)
    (here / "predictions.csv").write_text("precious")
    result = call(run, "--data", "flat")
    assert isinstance(result.exception, RunError) and "--overwrite" in str(result.exception)
    assert (here / "predictions.csv").read_text() == "precious"
    assert call(run, "--data", "flat", "--overwrite").exit_code == 0
    assert (here / "predictions.csv").read_text().startswith('"file","status"')


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [("p.xlsx", ConfigError, r"\.csv, \.json or \.parquet"), ("absent/p.csv", RunError, "no folder absent")],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(here: Path, output: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        primia.infer(here / "no run", here / "no data", output=output)


def test_weights_that_are_not_safetensors(run: Path, here: Path) -> None:
    put(here / "flat", 1)
    (run / "model.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(ModelError, match=r"model\.safetensors: cut short or not a safetensors file"):
        primia.infer(run, "flat")


def test_a_model_of_other_classes(run: Path, here: Path) -> None:
    put(here / "labelled" / "fracture", 1)
    with pytest.raises(DataError, match="'fracture' is none of the model's classes 'bacterial', 'normal', 'viral'"):
        primia.infer(run, "labelled")


def test_nothing_is_written_where_there_are_no_images(run: Path, here: Path) -> None:
    (here / "empty").mkdir()
    result = call(run, "--data", "empty")
    assert isinstance(result.exception, DataError) and "no images here" in str(result.exception)
    assert sorted(path.name for path in here.iterdir()) == ["empty", "run"]


def test_from_python(run: Path, here: Path) -> None:
    calls: list[tuple[int, int]] = []
    predictions = primia.infer(primia.Run(run), put(here / "flat", 3) / "01.png", on_progress=lambda *call: calls.append(call))
    assert isinstance(predictions, primia.Predictions)
    assert [row.file for row in predictions.rows] == ["01.png"] and calls == [(0, 1), (1, 1)]
    assert sorted(path.name for path in here.iterdir()) == ["flat", "run"]


def save_weights(run: Path, value: float) -> None:
    model = build_model(ModelSettings(), classes=3, channels=1, image_size=16, seed=1)
    flat = FlatSpec.of(model)
    card = ModelCard(ModelSettings(), CLASSES, 1, 16, Normalisation((0.5,), (0.2,)), synthetic=False, run="run", versions={})
    save_model(run, card, flat.state_dict(np.full_like(flat.parameters(model), value), flat.buffers(model)))


def test_weights_whose_outputs_are_not_numbers_flag_every_image(run: Path, here: Path) -> None:
    save_weights(run, 1e38)
    result = call(run, "--data", put(here / "flat", 2))
    assert result.exit_code == 0, result.output
    assert "2 images: 0 predicted, 2 out of range" in result.stdout and "synthetic" not in result.stdout
    assert "out of range: 00.png (the model's output is not a finite number)" in result.stdout


def test_weights_that_are_not_numbers_are_refused(run: Path, here: Path) -> None:
    save_weights(run, float("nan"))
    result = call(run, "--data", put(here / "flat", 2))
    assert isinstance(result.exception, ModelError) and "numbers that are not finite" in str(result.exception)


PLAN: dict[str, Any] = {
    "ring_bits": 32,
    "fraction_bits": 10,
    "aes": "native, 256 bits",
    "layers": [
        {"name": "features.0 [b]", "shape": [16, 32, 32], "weight_bits": 14, "comparison_bits": 13, "pool_bits": 12},
        {"name": "head", "shape": [3, 1, 1], "weight_bits": 11, "comparison_bits": 0, "pool_bits": 0},
    ],
    "comparisons": 30720,
    "multiplications": 1000,
    "exchanges": 11,
    "key_bytes": 4128780,
    "online_bytes": 21454,
    "offline_bytes": 1,
    "setup_bytes": 1,
    "expected_preprocessing_core_s": 0.256,
    "expected_online_core_s": 0.128,
    "calibration": {"images": 16, "same_class": 15, "largest_error": 0.00214},
}
COSTS = {
    "images": 4,
    "batches": 2,
    "batch_images": 2,
    "online_s_per_batch": 0.25,
    "preprocessing_s_per_batch": 0.5,
    "online_bytes_per_image": 2.1e5,
    "exchanges_per_batch": 11,
    "key_bytes_per_image": 4128780,
}


def console() -> Terminal:
    return Terminal(record=True, width=100)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the library, which infers in the clear instead."""
    found: dict[str, Any] = {}

    def encrypted(run: Path, data: Path, *, output: Path, overwrite: bool, options: api.EncryptedOptions, on_event: Any = None) -> Any:
        found.update(options=options)
        summary = api.infer(run, data, output=output, overwrite=overwrite).summary()
        if on_event:
            for event in ({"event": "plan", "plan": PLAN}, {"event": "progress", "done": 1, "total": 4}):
                on_event(event)
        return summary | {"encrypted": COSTS}

    def prepare(run: Path, images: int, *, keys: Path, options: api.EncryptedOptions, on_event: Any) -> dict[str, Any]:
        found.update(images=images, keys=keys, options=options)
        return {"keys": images, "seconds": 1.25}

    monkeypatch.setattr(api, "infer_encrypted", encrypted)
    monkeypatch.setattr(api, "prepare_keys", prepare)
    return found


@pytest.mark.parametrize(
    "options", [["--keys", "k"], ["--resume"], ["--address", "http://h:8265"], ["--calibration", "c"], ["--check"]], ids=lambda o: o[0]
)
def test_options_of_encrypted_inference_need_it(run: Path, here: Path, options: list[str]) -> None:
    result = call(run, "--data", put(here / "flat", 1), *options)
    assert isinstance(result.exception, ConfigError) and f"{options[0]}" in str(result.exception) and "--encrypted" in str(result.exception)
    assert not (here / "predictions.csv").exists()


def test_without_data_there_is_nothing_to_infer(run: Path) -> None:
    for more in ([], ["--encrypted"]):
        result = call(run, *more)
        assert isinstance(result.exception, ConfigError) and "--data DIR" in str(result.exception)


def test_keys_are_made_without_data_and_the_next_command_is_named(run: Path, here: Path, asked: dict[str, Any]) -> None:
    result = call(run, "--preprocess", 7, "--keys", "my keys", "--set", "inference.pipeline=1")
    assert result.exit_code == 0, result.output
    assert (asked["images"], asked["keys"], tuple(asked["options"].overrides)) == (7, Path("my keys"), ("inference.pipeline=1",))
    assert "keys for 7 images in 1.2 s, each to be used once" in result.stdout
    assert f"primia-ray infer {run} --data DIR --encrypted --keys 'my keys'" in result.stdout
    assert call(run, "--preprocess", 7).exit_code == 0 and asked["keys"] == run / "keys"


def test_an_encrypted_inference_shows_plan_costs_and_agreement(run: Path, here: Path, asked: dict[str, Any]) -> None:
    result = call(run, "--data", put(here / "flat", 4), "--encrypted", "--check", "--resume", "--keys", "k", "--calibration", "c")
    assert result.exit_code == 0, result.output
    options = asked["options"]
    assert (options.calibration, options.keys, options.resume, options.address) == (Path("c"), Path("k"), True, None)
    order = [
        "plan: ring of 32 bits",
        "4 images: 4 predicted",
        "encrypted, batches of 2",
        "check: 4 of 4 images",
        "predictions predictions.csv",
    ]
    places = [result.stdout.index(words) for words in order]
    assert places == sorted(places)


def test_an_encrypted_inference_as_json_is_one_document(run: Path, here: Path, asked: dict[str, Any]) -> None:
    put(here / "flat", 3)
    document = json.loads(call(run, "--data", "flat", "--encrypted", "--json").stdout)
    assert document["summary"]["images"] == len(document["predictions"]) == 3
    assert sorted(path.name for path in here.iterdir()) == ["flat", "run"]
    document = json.loads(call(run, "--data", "flat", "--encrypted", "--json", "-o", "p.csv").stdout)
    assert document["summary"]["encrypted"] == COSTS and (here / "p.csv").exists()


def test_the_plan_as_it_is_printed() -> None:
    shown = console()
    with job_progress(shown) as on_event:
        on_event({"event": "plan", "plan": PLAN})
        on_event({"event": "done", "summary": {}})
    lines = [line.rstrip() for line in shown.export_text().splitlines()]
    assert lines[0] == "plan: ring of 32 bits, AES native, 256 bits"
    assert [line.split() for line in lines if line.startswith((" features", "features", " head", "head"))] == [
        ["features.0", "[b]", "16", "x", "32", "x", "32", "14", "13", "12"],
        ["head", "3", "x", "1", "x", "1", "11", "-", "-"],
    ]
    assert lines[-2] == (
        "an image: 30,720 comparisons, 11 exchanges, 4.1 MB of keys, 21.5 kB online; expected 0.26 s of keys and 0.13 s online on one core"
    )
    assert lines[-1] == "calibration: 15 of 16 images get the class that the model gives in the clear, largest error of a logit 0.0021"


def test_a_plan_from_stored_keys_says_nothing_of_calibration() -> None:
    shown = console()
    with job_progress(shown) as on_event:
        on_event({"event": "plan", "plan": PLAN | {"calibration": {"images": 0, "same_class": 0, "largest_error": 0.0}}})
    assert "calibration" not in shown.export_text()


def test_costs_and_agreement_as_they_are_printed() -> None:
    shown = console()
    show_costs(shown, COSTS)
    show_costs(shown, COSTS | {"batch_images": 1})
    show_agreement(shown, {"images": 1200, "same_class": 1199, "largest_difference": 0.00071})
    assert shown.export_text().splitlines() == [
        "encrypted, batches of 2: keys 0.50 s and online 0.25 s a batch, 11 exchanges, 0.2 MB online and 4.1 MB of keys an image",
        "encrypted, one image a batch: keys 0.50 s and online 0.25 s a batch, 11 exchanges, 0.2 MB online and 4.1 MB of keys an image",
        "check: 1,199 of 1,200 images get the class that the model gives in the clear, largest difference of a probability 0.0007",
    ]
