from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from primia.audits import audit as privacy_audit
from primia.audits.inversion import Effort
from primia.cli.audit import audit
from primia.config.settings import Settings
from primia.consent.boxes import create_boxes
from primia.data.prepare import prepare
from primia.data.shard import Shard
from primia.errors import ConfigError, DataError, RunError
from primia.federation.data import new_data

fixtures = runpy.run_path(str(Path(__file__).parents[1] / "audits" / "conftest.py"))

app = typer.Typer()
app.command()(audit)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(privacy_audit, "THOROUGH", privacy_audit.AuditOptions(1, 2, Effort(iterations=2)))
    return fixtures["make_run"](tmp_path / "run")


def test_an_audit_writes_its_page_prints_its_tables_and_says_what_is_next(folder):
    result = run(folder, "--thorough")
    assert result.exit_code == 0, result.output
    assert (folder / "audit.html").is_file()
    said = result.stdout
    for words in ("images brought back from updates", "who was trained on", "LiRA, online", "chance", "Without protection", "next"):
        assert words in said
    assert str(folder / "audit.html") in said.replace("\n", "")


@pytest.mark.parametrize("only, missing", [("inversion", "membership"), ("membership", "inversion")])
def test_one_part_alone(folder, only, missing):
    assert run(folder, "--thorough", "--only", only).exit_code == 0
    document = json.loads((folder / "audit.json").read_text())
    assert document[missing] is None and document[only]


def test_a_private_run_is_audited_in_one_run(tmp_path):
    mechanism = {"noise_multiplier": 2.0, "sample_rate": 0.5, "steps": 2, "clip": 1.0, "views": 1, "units": 6}
    spent = {"sites": {"site-1": {"unit": "image", "epsilon": 3.0, "delta": 1e-5, "accountant": "rdp", **mechanism}}}
    folder = fixtures["make_run"](tmp_path / "run", spent=spent, privacy={"unit": "image", "noise_multiplier": 2.0})
    result = run(folder, "--only", "one-run", "--canaries", "100")
    assert result.exit_code == 0, result.output
    assert "canaries in one run of the mechanism" in result.stdout and "worst-case gradients" in result.stdout
    document = json.loads((folder / "audit.json").read_text())
    assert document["one_run"]["bounds"]["worst-case gradients"]["canaries"] == 100
    assert document["one_run"]["epsilon_proven"] <= document["one_run"]["epsilon_stated"]


def test_too_few_canaries_are_refused(tmp_path):
    assert isinstance(run(tmp_path / "nowhere", "--canaries", "2").exception, ConfigError)


def test_seed_and_numbers_are_those_given(folder):
    assert run(folder, "--thorough", "--only", "membership", "--shadows", "0", "--seed", "9").exit_code == 0
    document = json.loads((folder / "audit.json").read_text())
    assert document["seed"] == 9 and document["membership"]["shadows"] == 0


def test_an_odd_number_of_shadows_is_refused_before_anything_is_read(tmp_path):
    result = run(tmp_path / "nowhere", "--shadows", "3")
    assert isinstance(result.exception, ConfigError)


def test_what_is_no_run_is_one_line(tmp_path):
    result = run(tmp_path / "nowhere")
    assert isinstance(result.exception, RunError)
    assert "is not a run folder" in str(result.exception)


def test_data_that_was_moved_away_is_named(tmp_path, folder):
    config = folder / "config.ini"
    text = config.read_text().replace("source = demo", "source = folder")
    config.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("path =", "# path ="))).replace(
            "[data]", f"[data]\npath = {tmp_path / 'moved'}"
        )
    )
    result = run(folder)
    assert isinstance(result.exception, DataError)
    assert "moved" in str(result.exception)


def test_help_starts_without_torch():
    code = "import sys, primia.cli.audit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_images_of_site_boxes_are_their_private_halves(tmp_path):
    settings = Settings.model_validate(fixtures["TINY"])
    packed = prepare(settings.data, tmp_path / "cache")
    boxes = tmp_path / "boxes"
    create_boxes(boxes, packed.sites[0].train.parents[1])
    found = new_data(Settings.model_validate({"data": {"source": "boxes", "path": str(boxes), "image_size": 16}}))
    assert [site.name for site in found.sites] == ["site-1", "site-2", "site-3"]
    for site, original in zip(found.sites, packed.sites, strict=True):
        assert np.array_equal(Shard.open(site.train, box=site.box).images, Shard.open(original.train).images)


def test_ctrl_c_ends_at_once_and_writes_nothing(folder, monkeypatch):
    class Ended(Exception):
        pass

    def stop(*arguments):
        raise KeyboardInterrupt

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(privacy_audit, "run_audit", stop)
    monkeypatch.setattr("primia.cli.audit.os._exit", end)
    result = run(folder)
    assert isinstance(result.exception, Ended) and result.exception.args == (130,)
    assert not (folder / "audit.html").exists()
