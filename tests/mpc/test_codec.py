from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from primia.errors import ProtocolError
from primia.mpc.codec import decode, decode_into, encode, read_messages, write_message
from primia.mpc.messages import Kind, Message

LIMIT = 2**20
HEADER, ENTRY = 32, 48

some_arrays = arrays_of.arrays(
    st.sampled_from([np.uint8, np.uint32, np.uint64]), arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
)
some_messages = st.builds(
    Message, st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.lists(some_arrays, max_size=4).map(tuple)
)


def data_of(message: Message) -> bytearray:
    return bytearray(b"".join(encode(message)))


def reader(data: bytes | bytearray) -> Callable[[int], bytearray]:
    stream = io.BytesIO(data)
    return lambda nbytes: bytearray(stream.read(nbytes))


def decoded(data: bytes | bytearray, limit: int = LIMIT) -> Message:
    return decode(reader(data), limit)


def assert_equal(found: Message, due: Message) -> None:
    assert (found.kind, found.batch, found.stage) == (due.kind, due.batch, due.stage)
    assert [(a.dtype, a.shape) for a in found.arrays] == [(a.dtype, a.shape) for a in due.arrays]
    assert all(np.array_equal(a, b) for a, b in zip(found.arrays, due.arrays, strict=True))


def example(**changes: Any) -> Message:
    arrays = (np.arange(10, dtype=np.uint32).reshape(2, 5), np.arange(3, dtype=np.uint8), np.arange(4, dtype=np.uint64))
    return Message(**{"kind": Kind.STAGE_KEYS, "batch": 7, "stage": 3, "arrays": arrays} | changes)


@given(some_messages)
@settings(max_examples=100, deadline=None)
def test_a_message_comes_back(message: Message) -> None:
    data = data_of(message)
    assert_equal(decoded(data), message)
    assert_equal(decode_into(io.BytesIO(data).readinto, LIMIT), message)
    assert decoded(data, limit=len(data)).nbytes == message.nbytes
    assert len(data) % 16 == 0


@given(st.lists(some_messages, max_size=4))
@settings(max_examples=50, deadline=None)
def test_messages_follow_each_other_in_a_stream(messages: list[Message]) -> None:
    read = reader(b"".join(map(data_of, messages)))
    for message in messages:
        assert_equal(decode(read, LIMIT), message)


def test_the_arrays_are_not_copied() -> None:
    array = np.zeros(1000, np.uint32)
    parts = encode(example(arrays=(array,)))
    assert len(parts) == 2 and np.shares_memory(np.frombuffer(parts[1], np.uint8), array)


def test_received_arrays_are_writable_and_filled_in_place() -> None:
    targets: list[memoryview] = []
    stream = io.BytesIO(data_of(example()))

    def fill(target: memoryview) -> int:
        targets.append(target)
        return stream.readinto(target)

    message = decode_into(fill, LIMIT)
    assert all(array.flags.writeable for array in message.arrays)
    assert any(np.shares_memory(np.frombuffer(target, np.uint8), message.arrays[0]) for target in targets)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.int64), np.zeros(3, ">u4"), np.zeros((4, 4), np.uint8).T[1:], np.zeros((1,) * 6, np.uint8), np.zeros(2, np.float32)],
)
def test_what_no_message_carries_is_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="a message cannot carry"):
        encode(example(arrays=(array,)))


def test_too_many_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        encode(example(arrays=(np.zeros(0, np.uint8),) * 2**16))


@pytest.mark.parametrize(
    ("offset", "change", "told"),
    [
        (0, b"HTTP", "is no message"),
        (4, b"\x63", "format 99, where 1 is due"),
        (5, b"\xc8", "unknown kind 200"),
        (HEADER, b"\x02", "unknown dtype code 2"),
        (HEADER + 1, b"\x06", "6 dimensions"),
        (HEADER + 8, struct.pack("<2Q", 2**63, 2**63), "impossible shape"),
        (HEADER + 8, struct.pack("<2Q", 0, 2**63), "impossible shape"),
        (HEADER + 8, struct.pack("<2Q", 2**20, 1), "over the limit of 1,048,576"),
    ],
)
def test_a_wrong_head_is_refused(offset: int, change: bytes, told: str) -> None:
    data = data_of(example())
    data[offset : offset + len(change)] = change
    with pytest.raises(ProtocolError, match=told) as error:
        decoded(data)
    assert "\n" not in str(error.value)


def test_nothing_over_the_limit_is_taken() -> None:
    data, taken = data_of(example(arrays=(np.zeros(2**10, np.uint64),))), []

    def read(nbytes: int) -> bytearray:
        taken.append(nbytes)
        return bytearray(data[sum(taken[:-1]) : sum(taken)])

    with pytest.raises(ProtocolError, match="8,272 bytes are over the limit of 8,271"):
        decode(read, 8271)
    assert sum(taken) == HEADER + ENTRY
    taken.clear()
    with pytest.raises(ProtocolError, match="over the limit of 50"):
        decode(read, 50)
    assert sum(taken) == HEADER


def test_every_truncation_is_told() -> None:
    data = data_of(example())
    for length in range(len(data)):
        with pytest.raises(ProtocolError, match="key stream: truncated"):
            decode(reader(data[:length]), LIMIT, "key stream")


def test_a_file_gives_aligned_read_only_views(tmp_path: Path) -> None:
    messages = [
        example(),
        example(arrays=()),
        example(kind=Kind.BATCH, arrays=(np.zeros((0, 3), np.uint32), np.arange(5, dtype=np.uint64))),
    ]
    path = tmp_path / "keys"
    with path.open("wb") as file:
        for message in messages:
            write_message(file, message)
    found = list(read_messages(path))
    path.unlink()
    for message, due in zip(found, messages, strict=True):
        assert_equal(message, due)
        assert not any(array.flags.writeable or array.flags.owndata for array in message.arrays)
        assert all(array.ctypes.data % 16 == 0 for array in message.arrays)


def test_an_unbuffered_file_gets_the_whole_message(tmp_path: Path) -> None:
    with (tmp_path / "keys").open("wb", buffering=0) as file:
        write_message(file, example())
    assert (tmp_path / "keys").read_bytes() == data_of(example())


def test_an_empty_file_has_no_messages(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    assert list(read_messages(tmp_path / "keys")) == []


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    data, path = data_of(example()), tmp_path / "keys"
    for cut in (1, len(data) // 2, len(data) - 10):
        path.write_bytes(data + data[:-cut])
        messages = read_messages(path)
        assert_equal(next(messages), example())
        with pytest.raises(ProtocolError, match=r"keys, message 1: truncated, .* must be made or sent again"):
            next(messages)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"x" * 100)
    with pytest.raises(ProtocolError, match=r"keys, message 0: starts with b'xxxx'"):
        next(read_messages(tmp_path / "keys"))
    with pytest.raises(ProtocolError, match=r"cannot read .*none: No such file"):
        next(read_messages(tmp_path / "none"))
