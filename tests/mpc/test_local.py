from __future__ import annotations

from collections.abc import Iterator

import pytest

from primia.errors import ProtocolError
from primia.mpc.local import run_together
from primia.mpc.messages import Kind, Message, Phase, Procedure, Receive, Role, Send

S, C, D = Role.MODEL_OWNER, Role.DATA_OWNER, Role.DEALER


def sends(to: Role, *messages: Message) -> Procedure[str]:
    for message in messages:
        yield Send(to, message)
    return "sent"


def takes(sender: Role, *conversations: tuple[int, Phase]) -> Procedure[list[Message]]:
    taken = []
    for conversation in conversations:
        taken.append((yield Receive(sender, *conversation)))
    return taken


def message(kind: Kind, batch: int = 1, stage: int = 0) -> Message:
    return Message(kind, batch, stage, ())


def test_messages_of_a_conversation_keep_their_order_and_others_may_overtake() -> None:
    first, second, other = message(Kind.INPUT), message(Kind.SIGN_SHARE), message(Kind.INPUT, batch=2)
    results = run_together({C: sends(S, first, second, other), S: takes(C, (2, Phase.ONLINE), (1, Phase.ONLINE), (1, Phase.ONLINE))})
    assert results == {C: "sent", S: [other, first, second]}


def test_everything_that_is_said_is_seen() -> None:
    said, first = [], message(Kind.BATCH)
    run_together({S: takes(D, (1, Phase.PREPROCESSING)), D: sends(S, first)}, lambda *what: said.append(what))
    assert said == [(D, S, first)]


def test_parties_that_wait_for_each_other_are_named() -> None:
    with pytest.raises(
        ProtocolError, match=r"wait for each other: the model owner for .*DATA_OWNER.*, the data owner for .*MODEL_OWNER"
    ) as error:
        run_together({S: takes(C, (1, Phase.ONLINE)), C: takes(S, (1, Phase.ONLINE)), D: sends(S)})
    assert "dealer" not in str(error.value)


def test_a_message_of_another_batch_is_not_the_one_that_is_waited_for() -> None:
    with pytest.raises(ProtocolError, match="wait for each other: the model owner"):
        run_together({C: sends(S, message(Kind.INPUT, batch=2)), S: takes(C, (1, Phase.ONLINE))})


def test_what_a_procedure_raises_is_raised() -> None:
    def fails() -> Iterator[Send]:
        yield Send(S, message(Kind.INPUT))
        raise ProtocolError("a party failed")

    with pytest.raises(ProtocolError, match="a party failed"):
        run_together({C: fails()})  # type: ignore[dict-item]
