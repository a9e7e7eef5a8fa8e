from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from primia.consent import audit_log
from primia.consent.audit_log import AuditLog, Head
from primia.errors import ConsentError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of five rounds."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(1, 6):
        log.append({"purpose": "train", "round": number, "epsilon": number / 10})
    return tmp_path / "audit.jsonl"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def refused(path: Path) -> str:
    with pytest.raises(ConsentError) as error:
        AuditLog(path).read()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_events_come_back_in_order_and_closed_to_others(path: Path) -> None:
    entries = AuditLog(path).read()
    assert [(entry.number, entry.event["round"]) for entry in entries] == [(number, number) for number in range(1, 6)]
    assert len({entry.hash for entry in entries}) == 5
    assert AuditLog(path).head() == Head(5, path.stat().st_size, entries[-1].hash)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {"audit.jsonl": 0o600, "audit.head": 0o600}


def test_an_empty_log_reads_as_nothing(tmp_path: Path) -> None:
    assert AuditLog(tmp_path / "audit.jsonl").read() == ()


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_edited_line_is_told_by_its_number(path: Path, number: int) -> None:
    written = lines(path)
    written[number - 1] = written[number - 1].replace(b'"epsilon": 0.', b'"epsilon": 9.')
    path.write_bytes(b"".join(written))
    assert f"line {number} is not what was written" in refused(path)


@pytest.mark.parametrize("change", [b" ", b"\r"])
def test_even_white_space_counts(path: Path, change: bytes) -> None:
    written = lines(path)
    written[1] = change + written[1]
    path.write_bytes(b"".join(written))
    assert "line 2 is not what was written" in refused(path)


def test_a_removed_line_is_told_by_the_one_that_took_its_place(path: Path) -> None:
    written = lines(path)
    path.write_bytes(b"".join(written[:2] + written[3:]))
    assert "line 3 is not what was written: it was edited, or a line before it was removed" in refused(path)


@pytest.mark.parametrize(("kept", "line"), [(3, 3), (0, 0)])
def test_a_log_cut_at_its_end_is_noticed_on_reading_and_on_writing(path: Path, kept: int, line: int) -> None:
    path.write_bytes(b"".join(lines(path)[:kept]))
    assert f"cut after line {line}, 5 were written" in refused(path)
    with pytest.raises(ConsentError, match="cut after line"):
        AuditLog(path).append({"purpose": "train"})
    assert len(lines(path)) == kept


def test_a_log_cut_within_its_last_line_or_removed_is_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    assert "cut after line 4, 5 were written" in refused(path)
    path.unlink()
    assert "cut after line 0, 5 were written" in refused(path)


def test_a_line_that_got_shorter_is_named_by_the_next_append(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"epsilon": 0.3, ', b""))
    with pytest.raises(ConsentError, match="line 3 is not what was written"):
        AuditLog(path).append({"purpose": "train"})


def test_a_log_written_anew_with_a_valid_chain_does_not_fit_its_head(path: Path) -> None:
    forged = AuditLog(path.parent / "forged.jsonl")
    for number in range(1, 6):
        forged.append({"purpose": "train", "round": number, "epsilon": 0.0})
    path.write_bytes((path.parent / "forged.jsonl").read_bytes())
    assert "written anew: line 5" in refused(path)


def test_lines_added_behind_the_head_are_noticed(path: Path) -> None:
    head = path.with_suffix(".head").read_bytes()
    AuditLog(path).append({"purpose": "train", "round": 6})
    AuditLog(path).append({"purpose": "train", "round": 7})
    path.with_suffix(".head").write_bytes(head)
    assert "line 6 and what follows are not in audit.head" in refused(path)
    path.with_suffix(".head").unlink()
    assert "the head is missing" in refused(path)
    with pytest.raises(ConsentError, match="the head is missing"):
        AuditLog(path).append({"purpose": "train"})


def test_a_line_torn_by_a_crash_is_dropped_and_a_whole_one_kept(path: Path) -> None:
    head = path.with_suffix(".head").read_bytes()
    AuditLog(path).append({"purpose": "train", "round": 6})
    path.with_suffix(".head").write_bytes(head)  # killed between the line and its head
    assert len(AuditLog(path).read()) == 6
    with path.open("ab") as file:
        file.write(b'{"event": {"purp')  # killed within a line
    assert len(AuditLog(path).read()) == 6
    AuditLog(path).append({"purpose": "train", "round": 7})
    assert [entry.event["round"] for entry in AuditLog(path).read()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_damaged_head_is_named(path: Path) -> None:
    path.with_suffix(".head").write_text(json.dumps({"lines": 5}))
    assert "audit.head: no head of an audit log" in refused(path)
    path.with_suffix(".head").write_text("{")
    assert "audit.head: cannot be read" in refused(path)


def nested(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "odd",
    [float("inf"), float("nan"), {1, 2}, b"bytes", 10**450, -(10**450), 10**5000, nested(60), nested(100_000), 2 * 2**20 * "x"],
    ids=lambda odd: type(odd).__name__,
)
def test_what_could_not_be_read_back_leaves_the_log_as_it_was(path: Path, odd: object) -> None:
    before = path.read_bytes()
    with pytest.raises(ConsentError, match=r"could not be read back is not written|an event of more than 1048576 bytes") as error:
        AuditLog(path).append({"round": odd})
    assert "\n" not in str(error.value) and path.read_bytes() == before and len(AuditLog(path).read()) == 5
    AuditLog(path).append({"round": 6})
    assert len(AuditLog(path).read()) == 6


def test_a_full_log_takes_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its reader would refuse all of it."""
    monkeypatch.setattr(audit_log, "_LARGEST", path.stat().st_size + 10)
    with pytest.raises(ConsentError, match=r"audit\.jsonl: full"):
        AuditLog(path).append({"round": 6})
    assert len(AuditLog(path).read()) == 5


def test_processes_that_append_at_once_lose_no_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from primia.consent.audit_log import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for number in range(30): log.append({'who': sys.argv[2], 'number': number})"
    )
    path = tmp_path / "audit.jsonl"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    events = [entry.event for entry in AuditLog(path).read()]
    for name in "abc":
        assert [event["number"] for event in events if event["who"] == name] == list(range(30))


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="without an audit log nothing is done here"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl").append({})
