from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from primia.errors import PrivacyError
from primia.privacy.ledger import Charge, Ledger
from primia.privacy.spend import Spend

CHARGE = Charge("2026-01-02T03:04:05+00:00", "fed@x.example", "run-1", 1, "image", 1.1, 0.02, 50, 1e-4)


def anything(charges: Sequence[Charge]) -> None:
    """Admits every charge."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy.jsonl"


def test_charges_come_back_in_order_over_all_runs_of_a_federation(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.charges(CHARGE.federation) == []
    charges = [CHARGE, replace(CHARGE, run="run-2", noise_multiplier=0.1 + 0.2), replace(CHARGE, federation="other@x.example")]
    for charge in charges:
        ledger.charge(charge, anything)
    assert Ledger(path).charges(CHARGE.federation) == charges[:2]
    assert charges[0].spend == Spend(1.1, 0.02, 50)


def test_the_file_is_the_owners_alone_and_one_line_a_charge(path: Path) -> None:
    for _ in range(2):
        Ledger(path).charge(CHARGE, anything)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [1, 1]


def test_what_is_not_admitted_is_not_written(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(CHARGE, anything)

    def refuse(charges: Sequence[Charge]) -> None:
        assert charges == [CHARGE]
        raise PrivacyError("enough")

    with pytest.raises(PrivacyError, match="enough"):
        ledger.charge(replace(CHARGE, round=2), refuse)
    assert ledger.charges(CHARGE.federation) == [CHARGE]


def test_a_line_cut_at_any_byte_counts_as_nothing_and_the_next_charge_stands_whole(path: Path) -> None:
    ledger = Ledger(path)
    for round_ in (1, 2):
        ledger.charge(replace(CHARGE, round=round_), anything)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for cut in range(first, len(content)):
        path.write_bytes(content[:cut])
        assert [charge.round for charge in ledger.charges(CHARGE.federation)] == [1]
        ledger.charge(replace(CHARGE, round=3), anything)
        assert [charge.round for charge in ledger.charges(CHARGE.federation)] == [1, 3]


@pytest.mark.parametrize("line", ["nonsense", "{}", json.dumps([1]), json.dumps({"time": "now", "more": 1})])
def test_a_whole_line_that_is_no_charge_stops_everything(line: str, path: Path) -> None:
    Ledger(path).charge(CHARGE, anything)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PrivacyError, match=r"privacy\.jsonl: line 2 is no charge, so what is spent is not known"):
        Ledger(path).charges(CHARGE.federation)
    with pytest.raises(PrivacyError, match="line 2"):
        Ledger(path).charge(CHARGE, anything)


def test_without_a_place_to_write_nothing_is_released(path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"the privacy ledger cannot be used \(No such file or directory\); nothing is released"):
        Ledger(path.parent / "missing" / "ledger").charge(CHARGE, anything)
    with pytest.raises(PrivacyError, match="Is a directory"):
        Ledger(path.parent).charges(CHARGE.federation)


def test_only_one_at_a_time_decides(path: Path) -> None:
    """Eight threads with one budget of three charges: never a fourth, however they interleave."""

    def at_most_three(charges: Sequence[Charge]) -> None:
        if len(charges) >= 3:
            raise PrivacyError("spent")

    def work() -> None:
        try:
            Ledger(path).charge(CHARGE, at_most_three)
        except PrivacyError:
            refused.append(1)

    refused: list[int] = []
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Ledger(path).charges(CHARGE.federation)) == 3 and len(refused) == 5


def test_a_charge_is_on_disk_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), synced.append(path.read_bytes())))
    Ledger(path).charge(CHARGE, anything)
    assert synced[-1] == path.read_bytes() and synced[-1].endswith(b"\n")


def test_survives_being_killed(path: Path) -> None:
    """What a killed process has told of after charging is in the ledger, and at most the one charge after it."""
    script = f"""
import sys
from dataclasses import replace
from pathlib import Path
from primia.privacy.ledger import Charge, Ledger
charge = Charge(**{CHARGE.__dict__!r})
for round in range(10**6):
    Ledger(Path({str(path)!r})).charge(replace(charge, round=round), lambda charges: None)
    print(round, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = 20 + len(process.stdout.read().splitlines())
    process.wait()
    assert len(Ledger(path).charges(CHARGE.federation)) - told in (0, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("noise_multiplier", value) for value in ("x", 0, -1.0, float("nan"), float("inf"), 1e-200, 1e300, None, True)],
        *[("sample_rate", value) for value in (5, 0.0, -1.0, float("nan"), None, "0.1")],
        *[("steps", value) for value in (-5, 1.5, float("inf"), "7", 10**300, True)],
        *[("delta", value) for value in (0.0, 1.0, float("nan"), "x", None)],
        *[("unit", value) for value in (5, [], "", "Patient\n")],
        *[("federation", value) for value in (5, [1], None)],
        *[("round", value) for value in (-1, 1.0, None, [])],
        ("time", 5),
        ("run", {}),
        ("another", 1),
    ],
)
def test_a_line_of_odd_types_or_values_stops_everything(path: Path, key: str, value: object) -> None:
    Ledger(path).charge(CHARGE, anything)
    path.write_text(path.read_text() + json.dumps({**asdict(CHARGE), key: value}) + "\n")
    for attempt in (Ledger(path).charges, lambda: Ledger(path).charge(CHARGE, anything)):
        with pytest.raises(PrivacyError, match=r"privacy\.jsonl: line 2 is no charge, so what is spent is not known") as caught:
            attempt()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe", b'{"steps": ' + b"9" * 5000 + b"}"], ids=["deep", "latin", "digits"])
def test_a_line_that_is_no_json_stops_everything(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    with pytest.raises(PrivacyError, match="line 1 is no charge"):
        Ledger(path).charges()


@pytest.mark.parametrize("change", [{"steps": -1}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}, {"run": "x" * 2000}])
def test_what_could_not_be_read_back_is_not_written(path: Path, change: dict[str, Any]) -> None:
    Ledger(path).charge(CHARGE, anything)
    with pytest.raises(PrivacyError, match="cannot be used"):
        Ledger(path).charge(replace(CHARGE, **change), anything)
    assert Ledger(path).charges() == [CHARGE]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_ledger_is_a_file_of_its_own(path: Path, kind: str) -> None:
    victim = path.with_name("victim")
    victim.write_text("")
    if kind == "link":
        path.symlink_to(victim)
    else:
        os.mkfifo(path)
    for attempt in (Ledger(path).charges, lambda: Ledger(path).charge(CHARGE, anything)):
        with pytest.raises(PrivacyError, match="cannot be used"):
            attempt()
    assert victim.read_text() == ""
