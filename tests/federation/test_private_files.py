"""Whatever the umask, what is written for a run is for its owner's eyes only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import primia
from primia.api.preparation import check_output
from primia.cli import config as config_command
from primia.cli import data as data_command
from primia.config.settings import Settings
from primia.consent.boxes import create_boxes
from primia.data.prepare import prepare
from primia.federation.driver.run import run_federation
from primia.federation.plan import assign_hosts, plan_sites
from primia.federation.run_spec import RunSetup
from primia.inference.certificates import make_certificates
from primia.inference.lead import Journal
from primia.inference.output import write_predictions
from primia.inference.predictions import Prediction, Predictions
from primia.report.page import write_report
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder
from primia.search.tensorboard import write_trial

SETTINGS = {
    "data": {"source": "demo", "demo_images": 24, "image_size": 8, "sites": 2, "validation_fraction": 0.25, "test_fraction": 0.25},
    "training": {"batch_size": 4, "optimizer": "sgd"},
    "federation": {"rounds": 1, "keep_optimizer_state": True},
}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def readable(root: Path) -> list[str]:
    """What others could read or enter, or its owner could not, links aside."""
    wrong = []
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600):
            wrong.append(f"{path.relative_to(root)} {stat.S_IMODE(mode):04o}")
    return wrong


def trained(root: Path, make_hosts: Callable[..., object]) -> RunFolder:
    settings = Settings.model_validate({**SETTINGS, "run": {"output": root / "runs", "name": "a"}})
    check_output(settings.run.output)
    data = prepare(settings.data, settings.run.output / ".shards")
    folder = RunFolder.create(settings.run.output / "a", settings, data.fingerprint)
    setup = RunSetup.of(settings, data, folder.path, started_at=0.0)
    for _ in run_federation(setup, make_hosts(assign_hosts(plan_sites(data, settings.run), 1))):  # type: ignore[arg-type]
        pass
    write_report(folder.path)
    return folder


def commands(root: Path) -> None:
    for command in (
        ["demo", "-o", root / "demo", "--images", "60", "--size", "16", "--sites", "2"],
        ["pack", root / "demo", "-o", root / "packed", "--image-size", "16"],
        ["show", root / "demo", "-o", root / "sheet.png"],
        ["split", root / "demo" / "train" / "site-1", "-o", root / "links", "--sites", "2"],
        ["split", root / "demo" / "train" / "site-1", "-o", root / "copies", "--sites", "2", "--copy"],
    ):
        result = CliRunner().invoke(data_command.app, list(map(str, command)))
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert CliRunner().invoke(config_command.app, ["reference", "-o", str(root / "settings.md")]).exit_code == 0


def predictions(root: Path) -> None:
    rows = (Prediction("patient-1.png", "ok", None, "cat", (0.75, 0.25), None),)
    found = Predictions(("cat", "dog"), rows, None)
    for suffix in ("csv", "json", "parquet"):
        write_predictions(found, root / f"predictions.{suffix}")


def others(root: Path) -> None:
    sweep = SweepFolder.create(root / "sweeps" / "s", Settings.model_validate(SETTINGS), "f")
    sweep.begin(Settings().search)
    write_trial(sweep.trials / "0001" / "tensorboard", {"training.momentum": 0.5}, 0.5)
    make_certificates(root / "certificates")
    Journal(root / "journal" / "a.partial", {"run": "a"}, resume=False).add("a.png", np.array([0.5, 0.5]))
    create_boxes(root / "boxes", root / "packed")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_all_that_is_written_is_private_whatever_the_umask(tmp_path: Path, make_hosts: Callable[..., object], mask: int) -> None:
    with umask(mask):
        commands(tmp_path)
        others(tmp_path)
        predictions(tmp_path)
        folder = trained(tmp_path, make_hosts)
    written: Mapping[str, bool] = {path.name: path.is_dir() for path in folder.path.iterdir()}
    assert {"checkpoints", "tensorboard", "sites", "run.log", "rounds.parquet", "report.html", "model.safetensors"} <= written.keys()
    assert pq.read_table(folder.history).num_rows and list((tmp_path / "runs" / ".shards").rglob("*.arrow"))
    assert readable(tmp_path) == []


def test_shards_of_an_earlier_version_are_closed_when_they_are_used_again(tmp_path: Path) -> None:
    data = Settings.model_validate(SETTINGS).data
    prepare(data, tmp_path / "shards")
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    prepare(data, tmp_path / "shards")
    assert readable(tmp_path / "shards") == []


def test_a_temporary_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    from primia.files import atomic_path

    with umask(0), atomic_path(tmp_path / "a") as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600 and not temporary.stat().st_size
        temporary.write_bytes(b"x")
    assert readable(tmp_path) == []


KNOWN = {
    "cluster/head.py": 1,  # Ray's log, in a private folder
    "data/export.py": 2,  # into a folder that new_folder closes
    "data/shard.py": 1,  # within atomic_path, as the next ones
    "inference/keystore.py": 1,
    "inference/output.py": 1,
    "files.py": 2,
    "federation/site/log.py": 1,  # by a descriptor with mode 0600
    "report/figures.py": 1,  # into memory
    "search/tune/trainable.py": 1,  # into a folder of Ray Tune's, which is closed when the trial ends
}
"""Lines that open files to write, and why each is private."""


def test_files_are_written_through_the_module_that_closes_them() -> None:
    root = Path(primia.__file__).parent
    writes = re.compile(r"""\.write_(text|bytes)\(|open\([^)]*["'][wax]b?\+?["']|\.touch\(|np\.save|torch\.save|savefig""")
    found = {str(path.relative_to(root)): len(writes.findall(path.read_text())) for path in root.rglob("*.py")}
    assert {name: number for name, number in found.items() if number} == KNOWN
