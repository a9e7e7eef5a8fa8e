from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from primia.errors import ProtocolError
from primia.mpc.messages import Kind, Message, Phase, Receive, Role, check, expect

DUE = ((np.uint8, (3,)), (np.uint32, (2, 2)))
ARRAYS = (np.zeros(3, np.uint8), np.zeros((2, 2), np.uint32))


def test_every_kind_has_a_phase_and_every_role_a_name() -> None:
    assert {kind.phase for kind in Kind} == set(Phase)
    assert [kind for kind in Kind if kind.phase is Phase.SETUP] == [Kind.PLAN, Kind.WEIGHT_SEED, Kind.MASKED_WEIGHTS]
    assert [role.label for role in Role] == ["model owner", "data owner", "dealer"]


def test_a_message_knows_its_size_and_conversation() -> None:
    message = Message(Kind.INPUT, 5, 0, ARRAYS)
    assert message.nbytes == 19 and message.conversation == (5, Phase.ONLINE)


def test_the_message_that_is_due_passes() -> None:
    message = Message(Kind.INPUT, 5, 6, ARRAYS)
    check(message, "here", Kind.INPUT, 5, 6, DUE)
    check(message, "here", Kind.INPUT, 5, 6, None)


@pytest.mark.parametrize("change", [{"kind": Kind.RESULT}, {"batch": 4}, {"stage": 7}])
def test_another_message_is_refused(change: dict[str, Any]) -> None:
    message = Message(**{"kind": Kind.INPUT, "batch": 5, "stage": 6, "arrays": ARRAYS} | change)
    with pytest.raises(
        ProtocolError, match=r"out-of-order message from the dealer, batch 0000000000000005: .* where INPUT of stage 6 is due"
    ):
        check(message, "from the dealer", Kind.INPUT, 5, 6, DUE)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ((), "none"),
        (ARRAYS[:1], r"uint8\[3\]"),
        ((*ARRAYS, ARRAYS[0]), r"uint8\[3\], uint32\[2, 2\], uint8\[3\]"),
        (ARRAYS[::-1], r"uint32\[2, 2\], uint8\[3\]"),
        ((ARRAYS[0], ARRAYS[1].astype(np.uint64)), r"uint8\[3\], uint64\[2, 2\]"),
        ((ARRAYS[0], ARRAYS[1].reshape(-1)), r"uint8\[3\], uint32\[4\]"),
    ],
)
def test_other_arrays_are_refused(arrays: tuple[Any, ...], found: str) -> None:
    with pytest.raises(ProtocolError, match=rf"INPUT here, batch .*, stage 6: has arrays {found} where uint8\[3\], uint32\[2, 2\] is due"):
        check(Message(Kind.INPUT, 5, 6, arrays), "here", Kind.INPUT, 5, 6, DUE)


def test_expecting_asks_for_the_conversation_and_checks_what_comes() -> None:
    procedure = expect(Role.DATA_OWNER, Kind.INPUT, 5, 6, DUE)
    assert next(procedure) == Receive(Role.DATA_OWNER, 5, Phase.ONLINE)
    with pytest.raises(ProtocolError, match="from the data owner"):
        procedure.send(Message(Kind.INPUT, 5, 6, ()))
    procedure, message = expect(Role.DATA_OWNER, Kind.INPUT, 5, 6, DUE), Message(Kind.INPUT, 5, 6, ARRAYS)
    next(procedure)
    with pytest.raises(StopIteration) as end:
        procedure.send(message)
    assert end.value.value is message
