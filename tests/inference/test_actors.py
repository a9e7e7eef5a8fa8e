"""What of the actors needs no Ray: how messages are handed on, and where outputs lie."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from primia.config.settings import InferenceSettings
from primia.errors import KeyReuseError, ProtocolError
from primia.inference import actors
from primia.inference.actors import DataOwnerActor, DealerActor, ModelOwnerActor, Outbox, PartyActor, start_actor
from primia.inference.spec import InferenceSpec
from primia.mpc.messages import Kind, Message, Phase, Role


class Died(Exception):
    """Stands for Ray's error of an actor that is gone."""


class Reused(KeyReuseError):
    """As Ray wraps what an actor raised."""

    cause = KeyReuseError("keys serve once")


class Peer:
    """Stands for an actor; ``answers`` gives what each call returns, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, Role, int, Any]] = []
        self.deliver = SimpleNamespace(options=self._options)
        self.error = error

    def _options(self, concurrency_group: str) -> SimpleNamespace:
        def remote(sender: Role, number: int, message: Any) -> Exception | None:
            self.calls.append((concurrency_group, sender, number, message))
            return self.error

        return SimpleNamespace(remote=remote)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls that were waited for, with a Ray that only knows values."""
    seen: list[Any] = []

    def get(reference: Any) -> None:
        seen.append(reference)
        if isinstance(reference, Exception):
            raise reference

    fake = SimpleNamespace(put=lambda value: ("stored", value), get=get, exceptions=SimpleNamespace(RayActorError=Died))
    monkeypatch.setattr(actors, "ray", fake)
    return seen


def message(kind: Kind = Kind.SIGN_SHARE) -> Message:
    return Message(kind, 1, 0, (np.zeros(3, np.uint8),))


def test_a_sender_waits_once_four_messages_are_under_way(waited: list[Any]) -> None:
    peer = Peer()
    outbox = Outbox(Role.DEALER, {Role.MODEL_OWNER: peer})
    for number in range(6):
        outbox.send(Role.MODEL_OWNER, message())
        assert len(waited) == max(0, number - 3)
    assert [call[:3] for call in peer.calls] == [("dealer", Role.DEALER, number) for number in range(6)]


def test_what_both_are_told_is_stored_once(waited: list[Any]) -> None:
    peers = {Role.MODEL_OWNER: Peer(), Role.DATA_OWNER: Peer()}
    outbox, keys = Outbox(Role.DEALER, peers), message(Kind.STAGE_KEYS)
    for role in peers:
        outbox.send(role, keys)
    first, second = (peer.calls[0][3] for peer in peers.values())
    assert first is second and first == ("stored", keys)
    outbox.send(Role.MODEL_OWNER, small := message(Kind.BATCH))
    assert peers[Role.MODEL_OWNER].calls[1][3] is small


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Died("x"), ProtocolError, "the data owner died; images that were done are kept: go on with --resume"),
        (Reused("wrapped"), KeyReuseError, "keys serve once"),
    ],
)
def test_a_peer_that_fails_is_one_line(waited: list[Any], error: Exception, kind: type[Exception], words: str) -> None:
    outbox = Outbox(Role.DEALER, {Role.DATA_OWNER: Peer(error)})
    with pytest.raises(kind, match=f"^{words}$"):
        for _ in range(6):
            outbox.send(Role.DATA_OWNER, message())


@pytest.mark.parametrize(
    ("place", "options"), [("", {}), ("hospital", {"resources": {"hospital": 0.001}}), ("zone=a=b", {"label_selector": {"zone": "a=b"}})]
)
def test_actors_go_where_they_are_placed_and_never_restart(monkeypatch: pytest.MonkeyPatch, place: str, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {}

    def remote(**outer: Any) -> Callable[..., Any]:
        given.update(outer)

        class Kind:
            @staticmethod
            def options(**inner: Any) -> SimpleNamespace:
                given.update(inner)
                return SimpleNamespace(remote=lambda spec: spec)

        return lambda kind: Kind

    monkeypatch.setattr(actors, "ray", SimpleNamespace(remote=remote))
    start_actor(DealerActor, None, place)  # type: ignore[arg-type]
    assert given.pop("concurrency_groups") == {"model_owner": 1, "data_owner": 1, "dealer": 1, "control": 2}
    assert given == {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0} | options


def spec_of(tmp_path: Path, **fields: Any) -> InferenceSpec:
    return InferenceSpec(run=tmp_path, inference=InferenceSettings(), threads=1, output=tmp_path / "p.csv", **fields)


@pytest.mark.parametrize("kind", [ModelOwnerActor, DataOwnerActor, DealerActor])
def test_what_a_peer_delivers_lies_in_the_mailbox(tmp_path: Path, kind: type[PartyActor]) -> None:
    actor = kind(spec_of(tmp_path))
    sender = next(role for role in Role if role is not actor.role)
    due = [message() for _ in range(4)]
    for number in (2, 1, 0, 3):  # Ray promises no order
        actor.deliver(sender, number, due[number])
    assert [actor.mailbox.get(sender, 1, Phase.ONLINE, 1.0) for _ in due] == due
    actor.deliver(sender, 4, Message(Kind.FAILED, 0, 0, (np.frombuffer(b"out of paper", np.uint8),)))
    with pytest.raises(ProtocolError, match=rf"^the {sender.label} failed: out of paper$"):
        actor.mailbox.get(sender, 1, Phase.ONLINE, 1.0)


def test_an_output_that_is_fetched_lies_on_the_node_for_a_moment_only(tmp_path: Path) -> None:
    with actors._output(spec_of(tmp_path, fetch=True)) as output:
        assert output.name == "p.csv" and output.parent != tmp_path
        output.write_bytes(b"\x00\xff")
        output.with_suffix(".summary.json").write_text("{}")
        found = actors._contents(output)
    assert not output.parent.exists()
    assert {name: base64.b64decode(text) for name, text in found.items()} == {"p.csv": b"\x00\xff", "p.summary.json": b"{}"}
    with actors._output(spec_of(tmp_path)) as output:
        assert output == tmp_path / "p.csv"
