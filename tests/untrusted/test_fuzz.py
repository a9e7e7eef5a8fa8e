"""Two thousand changed run folders, models, sweeps and boxes: each is read, or refused with one line, and nothing else happens."""

from __future__ import annotations

import resource
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
import torch

from primia.config.settings import Settings
from primia.consent.box import SiteBox
from primia.consent.boxes import federated_data
from primia.errors import PrimiaError
from primia.federation.driver.checkpoint import Checkpoints, RunState
from primia.federation.driver.prepare import _known_facts
from primia.models.file import load_model
from primia.models.flat import FlatSpec
from primia.report.page import render_report
from primia.runs.folder import RunFolder
from primia.runs.results import RunResults
from primia.runs.rounds import History
from primia.search.folder import SweepFolder
from primia.search.report.page import SweepResults, render_sweep
from primia.search.space.space import Space
from primia.search.tune.warm_start import known_from_start, read_known
from primia.untrusted.files import Unusable

Mutator = runpy.run_path(str(Path(__file__).with_name("mutations.py")))["Mutator"]

SECONDS = 10
"""Of computing; waiting may take six times as long, so that a busy machine fails nothing."""
ROOM = 2 * 2**30
"""Bytes of address space that reading may take beyond what the process has."""


def read_run(path: Path, what: str, number: int) -> None:
    folder = RunFolder.open(path)
    if "config.ini" in what:  # it takes the longest
        folder.settings()
    folder.fingerprint(), folder.identity(), folder.status()
    state, _ = Checkpoints(folder.checkpoints, 2).load_latest()
    if state:
        state.check_fit(state.model.parameters.size, state.model.buffers.size)
        Checkpoints(folder.checkpoints, 1).write(RunState(state.model, state.server, state.best, state.progress))
    History.read(folder.history, 10)
    facts = _known_facts(folder.facts)
    with suppress(Unusable):
        facts.check_fit(["site-1", "site-2", "site-3"], 2, 1, exact=True)
        facts.total.pixels.normalisation()
    folder.write_summary(folder.read_summary())
    with folder.logging() as log:
        log.info("read")
    results = RunResults.read(path)
    if number % 350 == 0:
        render_report(results)


def read_model(path: Path, what: str, number: int) -> None:
    model, card = load_model(path)
    model(torch.zeros(1, card.channels, card.image_size, card.image_size))


SPACE = Space.of(Settings.model_validate({"training": {"optimizer": "sgd"}, "search": {"space": {"training.momentum": "uniform(0, 0.9)"}}}))


def read_sweep(path: Path, what: str, number: int) -> None:
    folder = SweepFolder.open(path)
    space = Space.of(folder.settings()) if "config.ini" in what else SPACE
    folder.records(), folder.result(), folder.fingerprint()
    read_known(folder.known, space)
    search = space.base.search.model_copy(update={"warm_start": (str(path),)})
    known_from_start(replace(space, base=space.base.model_copy(update={"search": search})))
    results = SweepResults.read(folder)
    if number % 125 == 0 and results:
        render_sweep(folder)


def read_box(path: Path, what: str, number: int) -> None:
    box = SiteBox.open(path)
    box.identity(), box.peers(), box.grants(), box.budgets()
    federated_data(path, dry_run=True)
    federated_data(path, dry_run=False)
    box.check_grant("study@hospital.example")
    box.audit_log(), box.audit_head()


@pytest.fixture
def outside(memory: Path) -> Iterator[Path]:
    """A folder that changed ones link to; the names in it are those that readers would remove."""
    root = memory / "outside"
    (root / "folder").mkdir(parents=True)
    for name in ("round-000001.json", "round-000001.safetensors", "run.log", "notes", "privacy.jsonl", "rounds.parquet"):
        (root / "folder" / name).write_text("{}")
    (root / "kept.json").write_text("{}")
    yield root
    shutil.rmtree(root)


@contextmanager
def bounded() -> Iterator[None]:
    """Time and memory that reading may take; a limit that is met ends the test with an exception of its own."""

    def late(signal_number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    handlers = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(6 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def listing(root: Path) -> dict[str, tuple[int, str]]:
    return {str(path): (path.lstat().st_mode, path.read_text() if path.is_file() else "") for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize(
    ("kind", "read", "changes"),
    [("run_folder", read_run, 700), ("model_folder", read_model, 800), ("sweep_folder", read_sweep, 250), ("box_folder", read_box, 250)],
    ids=["runs", "models", "sweeps", "boxes"],
)
def test_what_a_stranger_made_is_read_or_refused_with_one_line(
    request: pytest.FixtureRequest, memory: Path, outside: Path, kind: str, read: Callable[[Path, str, int], None], changes: int
) -> None:
    original: Path = request.getfixturevalue(kind)
    mutator, before, said = Mutator(changes, outside), listing(outside), {"read": 0, "refused": 0}
    for number in range(changes):
        changed = Path(shutil.copytree(original, memory / "changed" / kind))
        what = mutator.change(changed)
        try:
            with bounded():
                read(changed, what, number)
            said["read"] += 1
        except PrimiaError as error:
            assert str(error).isprintable() and len(str(error)) < 2500, f"{what}: {str(error)[:3000]}"
            said["refused"] += 1
        except Exception as error:
            raise AssertionError(f"change {number}, {what}: {type(error).__name__}: {str(error)[:300]}") from error
        assert listing(outside) == before, f"change {number}, {what}: something outside was touched"
        shutil.rmtree(changed)
    assert min(said.values()) > changes // 50, f"one of both hardly happened: {said}"


def test_the_unchanged_ones_are_read(run_folder: Path, model_folder: Path, sweep_folder: Path, box_folder: Path, memory: Path) -> None:
    for read, original in ((read_run, run_folder), (read_model, model_folder), (read_sweep, sweep_folder), (read_box, box_folder)):
        copy = Path(shutil.copytree(original, memory / "same" / original.name))
        read(copy, "config.ini", 0)
    model, _ = load_model(model_folder)
    state, complaints = Checkpoints(run_folder / "checkpoints", 2).load_latest()
    assert state and not complaints
    state.check_fit(FlatSpec.of(model).parameter_count, FlatSpec.of(model).buffer_count)
