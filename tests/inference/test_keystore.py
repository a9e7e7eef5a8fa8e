from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from primia.errors import KeyReuseError, ProtocolError
from primia.inference.keystore import KeyStore, ReadyBatch
from primia.mpc.compiler import Compiled
from primia.mpc.messages import Kind, Message

SHAPES = ((np.uint32, (5,)),)
BATCH = 2**64 - 3  # a number that SQLite's integers do not hold

RACE = """
import sys
from pathlib import Path
from primia.errors import KeyReuseError
from primia.inference.keystore import KeyStore
store = KeyStore.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    with store.taking(int(sys.argv[2])) as keys:
        print("won")
except KeyReuseError:
    print("lost")
"""


def record(stage: int, batch: int = BATCH) -> Message:
    return Message(Kind.STAGE_KEYS, batch, stage, (np.arange(5, dtype=np.uint32) + stage,))


@pytest.fixture
def store(tmp_path: Path, compiled: Compiled) -> KeyStore:
    return KeyStore.create(tmp_path / "keys", compiled.program, "print")


def fill(store: KeyStore, batch: int = BATCH, images: int = 4) -> Path:
    with store.writing(batch, images) as keep:
        for stage in range(3):
            keep(record(stage, batch))
    return store.folder / f"{batch:016x}.keys"


def test_keys_come_back_in_order_and_once(store: KeyStore, compiled: Compiled) -> None:
    file = fill(store)
    again = KeyStore.open(store.folder)
    assert again.ready() == [ReadyBatch(BATCH, 4)]
    assert (again.program, again.fingerprint) == (compiled.program, "print")
    with again.taking(BATCH) as keys:
        for stage in range(3):
            (found,) = keys.take(Kind.STAGE_KEYS, stage, SHAPES)
            assert np.array_equal(found, record(stage).arrays[0])
        with pytest.raises(KeyReuseError, match="used up or cut short"):
            keys.take(Kind.STAGE_KEYS, 3, SHAPES)
    assert not file.exists() and again.ready() == []


def test_the_oldest_keys_come_first(store: KeyStore) -> None:
    for batch in (9, 3, 7):
        fill(store, batch)
    assert [ready.batch for ready in store.ready()] == [9, 3, 7]


@pytest.mark.parametrize("there_before", [False, True])
def test_the_folder_is_for_its_owner_alone(tmp_path: Path, compiled: Compiled, there_before: bool) -> None:
    folder = tmp_path / "keys"
    if there_before:
        folder.mkdir(mode=0o755)
    store = KeyStore.create(folder, compiled.program, "print")
    fill(store)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("restored", [False, True])
def test_keys_used_twice_are_refused(store: KeyStore, tmp_path: Path, reopened: bool, restored: bool) -> None:
    file = fill(store)
    shutil.copy(file, tmp_path / "copy")
    with store.taking(BATCH):
        pass
    if restored:
        shutil.copy(tmp_path / "copy", file)
    again = KeyStore.open(store.folder) if reopened else store
    assert again.ready() == []
    with pytest.raises(KeyReuseError, match=r"batch fffffffffffffffd were used before or never made"), again.taking(BATCH):
        pytest.fail("taken twice")


def test_keys_are_spent_before_the_first_is_read_whatever_happens_then(store: KeyStore) -> None:
    file = fill(store)
    with pytest.raises(ZeroDivisionError), store.taking(BATCH) as keys:
        assert KeyStore.open(store.folder).ready() == []
        keys.take(Kind.STAGE_KEYS, 0, SHAPES)
        raise ZeroDivisionError
    assert not file.exists()
    with pytest.raises(KeyReuseError), store.taking(BATCH):
        pytest.fail("taken twice")


def test_what_a_killed_process_left_of_used_keys_is_deleted(store: KeyStore) -> None:
    file = fill(store)
    copy = file.read_bytes()
    with store.taking(BATCH):
        pass
    file.write_bytes(copy)
    KeyStore.open(store.folder)
    assert not file.exists()


def test_keys_that_were_never_made_are_refused(store: KeyStore) -> None:
    with pytest.raises(KeyReuseError, match="never made"), store.taking(5):
        pytest.fail("taken")


def test_keys_that_broke_off_while_they_were_made_are_not_ready(store: KeyStore) -> None:
    with pytest.raises(ZeroDivisionError), store.writing(BATCH, 4) as keep:
        keep(record(0))
        raise ZeroDivisionError
    assert store.ready() == [] and not list(store.folder.glob("*.keys*"))


def test_of_two_threads_one_wins(store: KeyStore) -> None:
    fill(store)
    barrier = threading.Barrier(4)

    def take() -> bool:
        barrier.wait()
        try:
            with KeyStore.open(store.folder).taking(BATCH):
                return True
        except KeyReuseError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(future.result(30) for future in [pool.submit(take) for _ in range(4)]) == 1


def test_of_two_processes_one_wins(store: KeyStore) -> None:
    fill(store)
    command = [sys.executable, "-c", RACE, str(store.folder), str(BATCH)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 2
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert sorted(racer.communicate(timeout=30)[0] for racer in racers) == ["lost\n", "won\n"]


def test_keys_of_another_model_are_refused(store: KeyStore, compiled: Compiled) -> None:
    fill(store)
    with pytest.raises(ProtocolError, match="for another model or calibration"):
        KeyStore.create(store.folder, compiled.program, "other weights")
    with pytest.raises(ProtocolError, match="for another model or calibration"):
        KeyStore.create(store.folder, replace(compiled.program, fraction_bits=9), "print")
    assert KeyStore.create(store.folder, compiled.program, "print").ready() == [ReadyBatch(BATCH, 4)]


@pytest.mark.parametrize("kept", [-1, 40, 3])
def test_a_truncated_file_is_named(store: KeyStore, kept: int) -> None:
    file = fill(store)
    os.truncate(file, file.stat().st_size + kept if kept < 0 else kept)
    with pytest.raises(ProtocolError, match=rf"{file.name}, message \d: truncated"), store.taking(BATCH) as keys:
        for stage in range(3):
            keys.take(Kind.STAGE_KEYS, stage, SHAPES)


def test_whole_records_that_are_missing_at_the_end_are_noticed(store: KeyStore) -> None:
    with store.writing(BATCH, 4) as keep:
        keep(record(0))
    with pytest.raises(ProtocolError, match="cut short"), store.taking(BATCH) as keys:
        for stage in range(2):
            keys.take(Kind.STAGE_KEYS, stage, SHAPES)


def test_keys_of_another_batch_in_the_file_are_refused(store: KeyStore) -> None:
    shutil.copy(fill(store, 7), fill(store))
    with pytest.raises(ProtocolError, match="in the keys, batch"), store.taking(BATCH) as keys:
        keys.take(Kind.STAGE_KEYS, 0, SHAPES)


def test_a_folder_without_keys_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"holds no keys; make some first: .*--preprocess N"):
        KeyStore.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"fingerprint": "a"})])
def test_a_setup_that_is_none_is_named(store: KeyStore, text: str) -> None:
    (store.folder / "setup.json").write_text(text)
    with pytest.raises(ProtocolError, match=r"^[^\n]*setup\.json cannot be read[^\n]*$"):
        KeyStore.open(store.folder)


@pytest.mark.parametrize("content", [None, b"no database, but long enough to be taken for one" * 30])
def test_a_ledger_that_is_lost_or_broken_is_named(store: KeyStore, content: bytes | None) -> None:
    fill(store)
    ledger = store.folder / "ledger.sqlite"
    ledger.unlink() if content is None else ledger.write_bytes(content)
    with pytest.raises(ProtocolError, match=r"ledger\.sqlite"), store.taking(BATCH):
        pytest.fail("taken without a ledger")
    with pytest.raises(ProtocolError, match=r"ledger\.sqlite"):
        store.ready()
