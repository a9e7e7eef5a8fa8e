"""A site's memory of which sums it has helped to open."""

from __future__ import annotations

import json
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from primia.errors import ConsentError, ProtocolError
from primia.federation.journal import Journal


def test_the_same_sum_may_be_opened_again_and_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "sites" / "journal.jsonl")
    journal.agree("run", 1, "train", ["b", "a", "c"])
    journal.agree("run", 1, "train", ["a", "b", "c"])
    with pytest.raises(ProtocolError, match=r"train of round 1 was agreed on with other sites before \(c differ\).*subtr|would tell"):
        journal.agree("run", 1, "train", ["a", "b"])
    journal.agree("run", 2, "train", ["a", "b"])
    journal.agree("run", 1, "validation", ["a", "b"])
    journal.agree("another", 1, "train", ["a", "b"])


def test_memory_survives_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).agree("run", 1, "train", ["a", "b"])
    Journal(path).agree("run", 2, "train", ["a", "b"])
    path.write_text(path.read_text() + '\n{"run": "run", "rou')
    again = Journal(path)
    with pytest.raises(ProtocolError):
        again.agree("run", 1, "train", ["a", "c"])
    again.agree("run", 3, "train", ["a", "c"])
    with pytest.raises(ProtocolError):
        Journal(path).agree("run", 3, "train", ["a", "b"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().splitlines()) == 4, "the torn line, and one for each sum"


def test_work_is_known_by_any_other_name(tmp_path: Path) -> None:
    """Renamed, or asked for in another round or for another purpose, it is the same work, over the same sites only."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.agree("run", 1, "train", ["a", "b"], "digest")
    journal.agree("renamed", 7, "train", ["b", "a"], "digest")
    for run, round_ in (("another", 1), ("renamed", 8), ("run", 2)):
        with pytest.raises(ProtocolError, match=r"agreed on with other sites before \(c differ\)"):
            journal.agree(run, round_, "train", ["a", "b", "c"], "digest")
    journal.agree("another", 1, "train", ["a", "b", "c"], "other work")


def test_a_file_from_before_work_had_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    old = {"run": "run", "round": 1, "purpose": "train", "sites": ["a", "b"]}
    path.write_text(json.dumps(old) + '\n{"run": "run", "rou\n' + json.dumps({**old, "round": 2}))
    journal = Journal(path)
    for round_ in (1, 2):
        with pytest.raises(ProtocolError):
            journal.agree("run", round_, "train", ["a", "c"], "digest")
    journal.agree("run", 1, "train", ["a", "b"], "digest")
    with pytest.raises(ProtocolError):
        journal.agree("renamed", 1, "train", ["a", "c"], "digest")


@pytest.mark.parametrize("tail", ["\n", '\n{"run": "r', "\n\0\0\0\0", "\nxyz"])
def test_a_last_line_torn_by_a_crash_does_not_count(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).agree("run", 1, "train", ["a", "b"])
    path.write_text(path.read_text() + tail)
    for sites in (["a", "b"], ["a", "c"]):
        Journal(path).agree("run", 1 + (sites == ["a", "c"]), "train", sites)
    with pytest.raises(ProtocolError):
        Journal(path).agree("run", 2, "train", ["a", "b"])


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[1]}",
        "garbage",
        '{"run": "run", "round": 1, "purpose": "train", "sites": "ab"}',
        '{"run": "run", "round": "1", "purpose": "train", "sites": ["a"]}',
        '{"run": "run", "round": 1, "purpose": "train", "sites": [1]}',
        '{"run": ["run"], "round": 1, "purpose": "train", "sites": ["a"]}',
        '{"run": "run", "round": 1, "purpose": "train", "sites": ["a"], "work": {}}',
        '{"run": "run", "round": true, "purpose": "train", "sites": ["a"]}',
        '{"run": "run", "round": 1.0, "purpose": "train", "sites": ["a"]}',
        "[" * 100_000 + "}",
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_agreed_on(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).agree("run", 1, "train", ["a", "b"])
    path.write_text(f"{path.read_text()}\n{line}\n{path.read_text()}")
    before = path.read_bytes()
    with pytest.raises(ConsentError, match=r"journal\.jsonl: line 2 is not what was written; restore the file from a backup"):
        Journal(path).agree("run", 9, "train", ["a", "b"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "odd",
    [
        {"run": 5},
        {"run": None},
        {"run": 1001 * "x"},
        {"round_": True},
        {"round_": 1.0},
        {"round_": 10**450},
        {"round_": float("nan")},
        {"round_": "1"},
        {"purpose": ["train"]},
        {"work": b"digest"},
        {"sites": ["a", 1]},
        {"sites": ["a", None]},
        {"sites": 100_001 * ["a"]},
        {"sites": [1001 * "x"]},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, odd: dict[str, object]) -> None:
    """The attack: one entry of another type, and the journal is out of service for good."""
    path = tmp_path / "journal.jsonl"
    Journal(path).agree("run", 1, "train", ["a", "b"])
    before = path.read_bytes()
    given: Any = {"run": "run", "round_": 2, "purpose": "train", "sites": ["a", "b"], "work": "", **odd}
    with pytest.raises(ProtocolError, match="a name that the journal does not hold"):
        Journal(path).agree(**given)
    assert path.read_bytes() == before
    Journal(path).agree("run", 2, "train", ["a", "b"])


def test_sites_that_can_be_read_once_are_what_was_read(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.jsonl").agree("run", 1, "train", iter(["b", "a"]))
    with pytest.raises(ProtocolError, match="c differ"):
        Journal(tmp_path / "journal.jsonl").agree("run", 1, "train", ["a", "b", "c"])


def test_a_journal_that_cannot_be_written_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder.jsonl").mkdir()
    for path in ("link.jsonl", "folder.jsonl"):
        with pytest.raises(ConsentError, match=r"cannot be written .*; without it no sum is opened here"):
            Journal(tmp_path / path).agree("run", 1, "train", ["a", "b"])


def test_of_two_processes_that_agree_on_other_sites_at_once_one_wins(tmp_path: Path) -> None:
    """Both open the file before either has read it; 20 sums, so that without a lock some would be agreed on twice."""
    context = get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    both = [context.Process(target=agree_on, args=(tmp_path / "journal.jsonl", sites, barrier, answers)) for sites in ("ab", "ac")]
    for process in both:
        process.start()
    won = [answers.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    assert sorted(won[0] + won[1]) == list(range(20)), "each sum is over the sites of one of them"
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 20


def agree_on(path: Path, sites: str, barrier: Barrier, answers: Queue[list[int]]) -> None:
    """Try to agree on sums over these sites; which of them were won."""
    won = []
    for round_ in range(20):
        barrier.wait(timeout=120)
        try:
            Journal(path).agree("run", round_, "train", sites)
        except ProtocolError:
            continue
        won.append(round_)
    answers.put(won)
