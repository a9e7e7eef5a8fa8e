from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.numpy import load_file, save_file

from primia.cli.inference_display import job_progress
from primia.cli.terminal import Terminal
from primia.config.reader import load_config
from primia.config.settings import InferenceSettings
from primia.data.demo import demo_catalogue
from primia.data.export import demo_tree
from primia.data.prepare import prepare
from primia.data.statistics import Normalisation
from primia.errors import DataError, ModelError, PrimiaError, ProtocolError
from primia.inference.keystore import KeyStore
from primia.inference.model import CALIBRATION_IMAGES, PublicCard, compile_for_keys, compile_run, plan_report
from primia.mpc.compiler import Compiled
from primia.mpc.dpf import backend
from primia.mpc.oracle import random_rounding
from primia.mpc.program import Program
from primia.mpc.workers import Workers

CARD = PublicCard(("a", "b é"), 3, 32, Normalisation((0.1, 0.2, 0.3), (1.0, 0.5, 0.25)), synthetic=False, run="first")


@pytest.fixture
def run(kit: SimpleNamespace, tmp_path: Path) -> Path:
    folder: Path = kit.make_run(tmp_path / "run")
    return folder


@pytest.fixture
def images(kit: SimpleNamespace, tmp_path: Path) -> Path:
    folder: Path = kit.put_images(tmp_path / "own", CALIBRATION_IMAGES + 8)
    return folder


def test_a_run_is_compiled_with_images_of_a_folder(run: Path, images: Path, kit: SimpleNamespace) -> None:
    compiled = compile_run(run, images, InferenceSettings(), Workers(1))
    card = PublicCard.from_program(compiled.program)
    assert (card.classes, card.image_size, card.normalisation) == (kit.classes, kit.size, Normalisation((0.4,), (0.3,)))
    assert 0 < compiled.agreement.images <= CALIBRATION_IMAGES
    sample = torch.randn(4, 1, kit.size, kit.size, generator=torch.Generator().manual_seed(0)).clamp(-1.3, 1.9)
    result = compiled.oracle(Workers(1)).run(compiled.encoded(sample), random_rounding(bytes(16)))
    assert result.outputs == pytest.approx(kit.plain(run, sample), abs=0.05)


def test_settings_reach_the_program(run: Path, images: Path) -> None:
    program = compile_run(run, images, InferenceSettings(ring_bits=40, fraction_bits=12), Workers(1)).program
    assert (program.bits, program.fraction_bits) == (40, 12)
    narrow, wide = (compile_run(run, images, InferenceSettings(spare_bits=spare), Workers(1)).program.layers[0] for spare in (1, 4))
    assert wide.comparison_bits == narrow.comparison_bits + 3


def test_the_same_images_give_the_same_program(run: Path, images: Path) -> None:
    first, second = (compile_run(run, images, InferenceSettings(), Workers(1)) for _ in range(2))
    assert first.fingerprint == second.fingerprint and first.program == second.program


def test_the_runs_own_images_calibrate_where_no_folder_is_given(run: Path, tmp_path: Path) -> None:
    (run / "config.ini").write_text(f"[data]\ndemo_images = 12\nimage_size = 16\ncache = {tmp_path / 'elsewhere'}\n")
    (run / "data.json").write_text('{"fingerprint": "other"}')
    with pytest.raises(DataError, match="the images are not those that it was trained on"):
        compile_run(run, None, InferenceSettings(), Workers(1))
    assert not (run.parent / ".shards").exists()
    packed = prepare(load_config(run / "config.ini").data, tmp_path / "own")
    (run / "data.json").write_text(f'{{"fingerprint": "{packed.fingerprint}"}}')
    compiled = compile_run(run, None, InferenceSettings(), Workers(1))
    assert compiled.agreement.images > 0 and not (tmp_path / "elsewhere").exists()


def test_without_any_images_the_way_out_is_named(run: Path) -> None:
    with pytest.raises(DataError, match=r"^no images to calibrate with: [^\n]*nowhere[^\n]*--calibration DIR$"):
        compile_run(run, None, InferenceSettings(), Workers(1))


def test_a_calibration_image_that_cannot_be_read_is_a_fault_of_the_user(run: Path, images: Path) -> None:
    (images / "00.png").write_text("no image")
    with pytest.raises(PrimiaError, match=r"00\.png"):
        compile_run(run, images, InferenceSettings(), Workers(1))


@pytest.mark.parametrize("content", [b"\x80\x04pickled", b"", b"PK\x03\x04"])
def test_weights_that_are_not_safetensors_are_refused(run: Path, images: Path, content: bytes) -> None:
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: cut short or not a safetensors file"):
        compile_run(run, images, InferenceSettings(), Workers(1))


def test_values_that_no_ring_holds_are_refused_by_layer(run: Path, images: Path) -> None:
    weights = load_file(run / "model.safetensors")
    weights["features.0.weight"] *= 1e8
    save_file(weights, run / "model.safetensors")
    with pytest.raises(ModelError, match=r"features\.0: values up to"):
        compile_run(run, images, InferenceSettings(), Workers(1))


def test_the_public_card_travels_in_the_plan(compiled: Compiled) -> None:
    program = Program.from_message(replace(compiled.program, about=CARD.to_json()).to_message())
    assert PublicCard.from_program(program) == CARD


@pytest.mark.parametrize("about", ["", "{", "[]", "{}", "3", CARD.to_json().replace("mean", "median"), CARD.to_json()[:-1] + ', "x": 1}'])
def test_a_card_that_is_none_is_one_line(compiled: Compiled, about: str) -> None:
    with pytest.raises(ProtocolError, match=r"^the plan does not say what images the model takes [^\n]*$"):
        PublicCard.from_program(replace(compiled.program, about=about))


def test_keys_serve_the_model_that_they_were_made_for(run: Path, images: Path, tmp_path: Path) -> None:
    made = compile_run(run, images, InferenceSettings(), Workers(1))
    store = KeyStore.create(tmp_path / "keys", made.program, made.fingerprint)
    assert compile_for_keys(run, store).fingerprint == made.fingerprint


def test_keys_of_another_model_are_refused(run: Path, images: Path, kit: SimpleNamespace, tmp_path: Path) -> None:
    made = compile_run(run, images, InferenceSettings(), Workers(1))
    store = KeyStore.create(tmp_path / "keys", made.program, made.fingerprint)
    with pytest.raises(ProtocolError, match=r"were made for another model than .*retrained; make fresh ones with --preprocess"):
        compile_for_keys(kit.make_run(tmp_path / "retrained", seed=2), store)
    with pytest.raises(ModelError, match="the keys were made for another network"):
        compile_for_keys(kit.make_run(tmp_path / "wider", classes=("a", "b", "c", "d")), store)
    shutil.rmtree(run)
    with pytest.raises(ModelError):
        compile_for_keys(run, store)


def test_the_plan_is_json_and_has_all_that_is_printed(compiled: Compiled) -> None:
    plan = json.loads(json.dumps(plan_report(compiled, backend()), allow_nan=False))
    costs = compiled.program.costs()
    assert plan["comparisons"] == costs.comparisons and plan["key_bytes"] == costs.key_bytes
    assert [layer["name"] for layer in plan["layers"]] == [layer.name for layer in compiled.program.layers]
    assert plan["calibration"]["images"] == compiled.agreement.images
    assert plan["expected_online_core_s"] > 0 and plan["expected_preprocessing_core_s"] > 0
    console = Terminal(record=True, width=120)
    with job_progress(console) as on_event:
        on_event({"event": "plan", "plan": plan})
    text = console.export_text()
    assert f"{costs.comparisons:,} comparisons, {costs.exchanges} exchanges" in text and "calibration: " in text
    assert all(layer.name in text for layer in compiled.program.layers)


def test_class_folders_calibrate_as_well(run: Path, tmp_path: Path) -> None:
    catalogue = demo_catalogue(sites=1, images=9, image_size=16, channels=1, seed=1)
    demo_tree(catalogue.with_places(catalogue.sites, ["test"] * len(catalogue)), tmp_path / "tree")
    site = next((tmp_path / "tree" / "test").iterdir())
    assert compile_run(run, site, InferenceSettings(), Workers(1)).agreement.images > 0
