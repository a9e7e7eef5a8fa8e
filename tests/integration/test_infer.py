"""Encrypted inference by the real commands: as a Ray job, and between three processes over TLS."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import primia
from primia.cluster.head import local_head
from primia.config.reader import dump_config
from primia.data.demo import demo_catalogue
from primia.data.export import demo_tree
from primia.data.packed import packed_fingerprint
from primia.data.prepare import place
from primia.data.sources import open_source
from primia.data.statistics import Normalisation
from primia.models.file import ModelCard, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model

pytestmark = pytest.mark.integration

Start = Callable[..., Any]
MANY, FEW = 320, 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, with a network that has seen nothing but noise; it calibrates on the demonstration's images."""
    folder = tmp_path_factory.mktemp("runs") / "noise"
    folder.mkdir()
    sets = ["data.demo_images=24", "data.image_size=32", f"run.output={folder.parent}"]
    settings = primia.load_config(overrides=sets)
    (folder / "config.ini").write_text(dump_config(settings))
    fingerprint = packed_fingerprint(place(open_source(settings.data), settings.data))
    (folder / "data.json").write_text(json.dumps({"fingerprint": fingerprint}))
    model = build_model(settings.model, classes=3, channels=1, image_size=32, seed=1).train()
    with torch.no_grad():
        model(torch.randn(32, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    flat = FlatSpec.of(model)
    card = ModelCard(settings.model, ("bacterial", "normal", "viral"), 1, 32, Normalisation((0.4,), (0.3,)), True, "noise", {})
    save_model(folder, card, flat.state_dict(flat.parameters(model), flat.buffers(model)))
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of many images, made of a few."""
    folder = tmp_path_factory.mktemp("images")
    catalogue = demo_catalogue(sites=1, images=30, image_size=32, channels=1, seed=5)
    demo_tree(catalogue.with_places(catalogue.sites, ["test"] * len(catalogue)), folder / "tree")
    files = sorted((folder / "tree").rglob("*.png"))
    (folder / "flat").mkdir()
    for number in range(MANY):
        source = files[number % len(files)]
        (folder / "flat" / f"{number:04}{source.suffix}").hardlink_to(source)
    return folder / "flat"


def few(flat: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in sorted(flat.iterdir())[:FEW]:
        (folder / path.name).hardlink_to(path)
    return folder


def classes(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as file:
        return {row["file"]: row["predicted"] for row in csv.DictReader(file)}


def assert_the_classes_are_those_in_the_clear(found: dict[str, str], run: Path, data: Path) -> None:
    """An image that lies just between two classes may get either."""
    rows = primia.infer(run, data).rows
    assert list(found) == [row.file for row in rows]
    for row in rows:
        best, second = sorted(row.probabilities or (), reverse=True)[:2]
        assert found[row.file] == row.predicted or best - second < 0.01, row


def lines_of(journal: Path) -> int:
    """Images in a journal."""
    return journal.read_text().count("\n") - 1 if journal.exists() else 0


def test_a_party_killed_in_the_middle_and_a_resume(primia_ray: Start, run: Path, flat: Path, tmp_path: Path) -> None:
    output, journal = tmp_path / "p.csv", tmp_path / ".p.csv.partial"
    arguments = ["infer", str(run), "--data", str(flat), "--encrypted", "--output", str(output)]
    killed = primia_ray(*arguments)
    killed.wait_for(lambda: lines_of(journal) > 0, "a line in the journal")
    os.kill(killed.actors("ModelOwnerActor")[0], signal.SIGKILL)
    assert killed.wait(60) == 9, killed.text
    (error,) = [line for line in killed.text.splitlines() if line.startswith("error:")]
    assert "the model owner died" in error and killed.text.strip().endswith(error)
    assert "Traceback" not in killed.text and killed.left_behind() == []
    done = lines_of(journal)
    assert 0 < done < MANY and not output.exists()

    resumed = primia_ray(*arguments, "--resume", "--check")
    assert resumed.wait() == 0, resumed.text
    assert resumed.left_behind() == []
    assert_the_classes_are_those_in_the_clear(classes(output), run, flat)
    summary = json.loads((tmp_path / "p.summary.json").read_text())
    assert summary["encrypted"]["images"] == MANY - done and summary["ok"] == MANY
    assert not journal.exists()
    for words in ("plan: ring of 32 bits", "of keys, ", "calibration: ", "encrypted, batches of", f"of {MANY:,} images get the class"):
        assert words in resumed.text


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The job API of a cluster that runs for a while; commands have its token."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    with local_head(store_bytes=2**30) as head:
        for name, value in head.environment.items():
            monkeypatch.setenv(name, value)
        yield head.dashboard_url


@pytest.mark.slow
def test_keys_made_ahead_are_used_once(primia_ray: Start, address: str, run: Path, flat: Path, tmp_path: Path) -> None:
    keys, images = tmp_path / "keys", few(flat, tmp_path / "few")
    made = primia_ray("infer", str(run), "--preprocess", str(FEW), "--keys", str(keys), "--address", address)
    assert made.wait() == 0, made.text
    assert f"keys for {FEW} images" in made.text
    assert ledger(keys) == {"model-owner": [(FEW, 0)], "data-owner": [(FEW, 0)]}

    use = ["infer", str(run), "--data", str(images), "--encrypted", "--keys", str(keys), "--address", address]
    used = primia_ray(*use, "--output", str(tmp_path / "p.csv"))
    assert used.wait() == 0, used.text
    assert_the_classes_are_those_in_the_clear(classes(tmp_path / "p.csv"), run, images)
    assert ledger(keys) == {"model-owner": [(FEW, 1)], "data-owner": [(FEW, 1)]} and not list(keys.glob("*/*.keys"))
    assert "keys 0.00 s" in used.text

    again = primia_ray(*use, "--output", str(tmp_path / "q.csv"))
    assert again.wait() == 9, again.text
    assert again.text.splitlines()[-1] == f"error: keys for 0 images are left, and {FEW} are wanted; make more with --preprocess {FEW}"
    assert "Traceback" not in again.text and not (tmp_path / "q.csv").exists()


def ledger(keys: Path) -> dict[str, list[tuple[int, int]]]:
    found = {}
    for folder in keys.iterdir():
        with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
            found[folder.name] = connection.execute("SELECT images, used FROM batches").fetchall()
    return found


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            first = int(server.getsockname()[1])
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from primia.inference.certificates import make_certificates

    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


def parties(primia_ray: Start, certificates: Path, run: Path, data: Path, output: Path) -> list[Any]:
    """Commands of model owner, data owner and dealer."""
    port = free_ports(3)
    owner, owner_for_dealer, data_owner = (f"127.0.0.1:{port + number}" for number in range(3))
    common = ["--certificates", str(certificates), "--session", output.name, "--wait", "60"]
    at_data_owner = ["--data", str(data), "--model-owner", owner, "--listen", data_owner, "--output", str(output)]
    return [
        primia_ray("party", "model-owner", str(run), "--listen", owner, *common),
        primia_ray("party", "data-owner", *at_data_owner, *common),
        primia_ray("party", "dealer", "--model-owner", owner_for_dealer, "--data-owner", data_owner, *common),
    ]


def test_three_processes_over_tls(primia_ray: Start, certificates: Path, run: Path, flat: Path, tmp_path: Path) -> None:
    images = few(flat, tmp_path / "few")
    commands = parties(primia_ray, certificates, run, images, tmp_path / "p.csv")
    assert [command.wait(90) for command in commands] == [0, 0, 0], [command.text for command in commands]
    assert_the_classes_are_those_in_the_clear(classes(tmp_path / "p.csv"), run, images)
    owner, data_owner, dealer = (command.text for command in commands)
    assert (owner, dealer) == ("served\n", "dealt\n") and f"{FEW} images: {FEW} predicted" in data_owner


def test_three_processes_and_the_dealer_is_killed(primia_ray: Start, certificates: Path, run: Path, flat: Path, tmp_path: Path) -> None:
    journal = tmp_path / ".p.csv.partial"
    owner, data_owner, dealer = parties(primia_ray, certificates, run, flat, tmp_path / "p.csv")
    data_owner.wait_for(lambda: lines_of(journal) > 0, "a line in the journal")
    dealer.process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    assert [command.wait(20) for command in (owner, data_owner)] == [9, 9], (owner.text, data_owner.text)
    assert time.monotonic() - begun < 10
    for command in (owner, data_owner):
        assert command.text.startswith("error: ") and command.text.count("\n") == 1
    # The model owner may hear of it from the data owner first, which tells no more than that it failed.
    assert "dealer" in data_owner.text and ("dealer" in owner.text or "the data owner failed" in owner.text)
    assert 0 < lines_of(journal) < MANY and not (tmp_path / "p.csv").exists()
