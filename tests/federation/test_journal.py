"""A site's memory of which sums it has helped to open."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.errors import ProtocolError
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
