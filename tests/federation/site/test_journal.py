"""A site's memory of which sums it has helped to open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from primia.errors import ConsentError, ProtocolError
from primia.federation.site import journal as module
from primia.federation.site.journal import Journal, Sum


def agree(journal: Journal, run: str, round_: int, purpose: str, sites: Iterable[str], work: str = "", federation: str = "f@x") -> None:
    journal.agree(Sum(federation, run, round_, purpose, tuple(sites), work))


def test_the_same_sum_may_be_opened_again_and_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "sites" / "journal.jsonl")
    agree(journal, "run", 1, "train", ["b", "a", "c"])
    agree(journal, "run", 1, "train", ["a", "b", "c"])
    with pytest.raises(ProtocolError, match=r"train of round 1 was agreed on with other sites before \(c differ\).*subtr|would tell"):
        agree(journal, "run", 1, "train", ["a", "b"])
    agree(journal, "run", 2, "train", ["a", "b"])
    agree(journal, "run", 1, "validation", ["a", "b"])
    agree(journal, "another", 1, "train", ["a", "b"])


def test_memory_survives_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    agree(Journal(path), "run", 2, "train", ["a", "b"])
    path.write_text(path.read_text() + '\n{"run": "run", "rou')
    again = Journal(path)
    with pytest.raises(ProtocolError):
        agree(again, "run", 1, "train", ["a", "c"])
    agree(again, "run", 3, "train", ["a", "c"])
    with pytest.raises(ProtocolError):
        agree(Journal(path), "run", 3, "train", ["a", "b"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().splitlines()) == 4, "the torn line, and one for each sum"


def test_work_is_known_by_any_other_name(tmp_path: Path) -> None:
    """Renamed, or asked for in another round or for another purpose, it is the same work, over the same sites only."""
    journal = Journal(tmp_path / "journal.jsonl")
    agree(journal, "run", 1, "train", ["a", "b"], "digest")
    agree(journal, "renamed", 7, "train", ["b", "a"], "digest")
    for run, round_ in (("another", 1), ("renamed", 8), ("run", 2)):
        with pytest.raises(ProtocolError, match=r"agreed on with other sites before \(c differ\)"):
            agree(journal, run, round_, "train", ["a", "b", "c"], "digest")
    agree(journal, "another", 1, "train", ["a", "b", "c"], "other work")


def test_a_file_from_before_work_had_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    old = {"run": "run", "round": 1, "purpose": "train", "sites": ["a", "b"]}
    path.write_text(json.dumps(old) + '\n{"run": "run", "rou\n' + json.dumps({**old, "round": 2}))
    journal = Journal(path)
    for round_ in (1, 2):
        with pytest.raises(ProtocolError):
            agree(journal, "run", round_, "train", ["a", "c"], "digest")
    agree(journal, "run", 1, "train", ["a", "b"], "digest")
    with pytest.raises(ProtocolError):
        agree(journal, "renamed", 1, "train", ["a", "c"], "digest")


@pytest.mark.parametrize("tail", ["\n", '\n{"run": "r', "\n\0\0\0\0", "\nxyz"])
def test_a_last_line_torn_by_a_crash_does_not_count(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "journal.jsonl"
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    path.write_text(path.read_text() + tail)
    for sites in (["a", "b"], ["a", "c"]):
        agree(Journal(path), "run", 1 + (sites == ["a", "c"]), "train", sites)
    with pytest.raises(ProtocolError):
        agree(Journal(path), "run", 2, "train", ["a", "b"])


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
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    path.write_text(f"{path.read_text()}\n{line}\n{path.read_text()}")
    before = path.read_bytes()
    with pytest.raises(ConsentError, match=r"journal\.jsonl: line 2 is not what was written; restore the file from a backup"):
        agree(Journal(path), "run", 9, "train", ["a", "b"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "odd",
    [
        {"run": 5},
        {"run": None},
        {"run": 1001 * "x"},
        {"round": True},
        {"round": 1.0},
        {"round": 10**450},
        {"round": float("nan")},
        {"round": "1"},
        {"purpose": ["train"]},
        {"work": b"digest"},
        {"sites": ("a", 1)},
        {"sites": ("a", None)},
        {"sites": 100_001 * ("a",)},
        {"sites": (1001 * "x",)},
        {"federation": 5},
        {"federation": 1001 * "x"},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, odd: dict[str, object]) -> None:
    """The attack: one entry of another type, and the journal is out of service for good."""
    path = tmp_path / "journal.jsonl"
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    before = path.read_bytes()
    given: Any = {"federation": "f@x", "run": "run", "round": 2, "purpose": "train", "sites": ("a", "b"), "work": "", **odd}
    with pytest.raises(ProtocolError, match="a name that the journal does not hold"):
        Journal(path).agree(Sum(**given))
    assert path.read_bytes() == before
    agree(Journal(path), "run", 2, "train", ["a", "b"])


def test_a_runs_name_is_its_federations_own(tmp_path: Path) -> None:
    """Another federation that knows the name neither keeps this one from its sums nor takes part in its memory; work has no federation."""
    journal = Journal(tmp_path / "journal.jsonl")
    agree(journal, "run", 1, "train", ["a", "b"], "digest")
    agree(journal, "run", 1, "train", ["a", "c"], "other work", federation="g@x")
    with pytest.raises(ProtocolError, match="c differ"):
        agree(journal, "run", 1, "train", ["a", "b", "c"], "digest", federation="h@x")
    for federation, sites in (("f@x", ["a", "c"]), ("g@x", ["a", "b"])):
        with pytest.raises(ProtocolError):
            agree(journal, "run", 1, "train", sites, federation=federation)


def test_who_a_run_is_over_takes_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    many = [f"site-{number:04d}-{100 * 'x'}" for number in range(5000)]
    Journal(path).agree(Sum.cohort("f@x", "run", many))
    Journal(path).agree(Sum.cohort("f@x", "run", reversed(many)))
    assert path.stat().st_size < 300
    with pytest.raises(ProtocolError, match="this run was of other sites before"):
        Journal(path).agree(Sum.cohort("f@x", "run", many[1:]))
    Journal(path).agree(Sum.cohort("g@x", "run", many[1:]))


def test_lines_that_name_no_federation_hold_for_all(tmp_path: Path) -> None:
    """As earlier versions wrote them, with the sites of a run by their names."""
    path = tmp_path / "journal.jsonl"
    cohort = {"run": "run", "round": 0, "purpose": "cohort", "sites": ["a", "b"]}
    path.write_text("\n".join(json.dumps(line) for line in (cohort, {**cohort, "round": 1, "purpose": "train", "work": "digest"})))
    for federation in ("f@x", "g@x"):
        Journal(path).agree(Sum.cohort(federation, "run", ["b", "a"]))
        with pytest.raises(ProtocolError):
            Journal(path).agree(Sum.cohort(federation, "run", ["a", "b", "c"]))
        with pytest.raises(ProtocolError, match="c differ"):
            agree(Journal(path), "run", 1, "train", ["a", "c"], federation=federation)


def test_a_full_journal_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    monkeypatch.setattr(module, "_LARGEST", path.stat().st_size + 10)
    agree(Journal(path), "run", 1, "train", ["a", "b"])
    before = path.read_bytes()
    with pytest.raises(ConsentError, match=r"journal\.jsonl: full"):
        agree(Journal(path), "run", 2, "train", ["a", "b"])
    assert path.read_bytes() == before


def test_a_journal_that_cannot_be_written_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder.jsonl").mkdir()
    for path in ("link.jsonl", "folder.jsonl"):
        with pytest.raises(ConsentError, match=r"cannot be written .*; without it no sum is opened here"):
            agree(Journal(tmp_path / path), "run", 1, "train", ["a", "b"])


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
            agree(Journal(path), "run", round_, "train", sites)
        except ProtocolError:
            continue
        won.append(round_)
    answers.put(won)
