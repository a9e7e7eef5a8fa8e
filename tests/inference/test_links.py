from __future__ import annotations

import datetime
import math
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from primia.errors import ProtocolError
from primia.inference import certificates, links
from primia.inference.certificates import make_certificates, party_name
from primia.inference.links import Identity, Limits, Link, LinkClosed, connect, listen
from primia.mpc.codec import encode
from primia.mpc.messages import Kind, Message, Role

SOON_S = 10.0
SESSION = bytes(range(16))
OWNER, DATA, DEALER = Role.MODEL_OWNER, Role.DATA_OWNER, Role.DEALER
SHORT = Limits(idle_timeout_s=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    make_certificates(folder)
    return folder


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def identity(folder: Path, role: Role) -> Identity:
    return Identity(folder / f"{party_name(role)}.pem", folder / f"{party_name(role)}.key", folder / "ca.pem")


def free_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "127.0.0.1", server.getsockname()[1]


def message(*sizes: int, stage: int = 0) -> Message:
    return Message(Kind.STAGE_KEYS, 5, stage, tuple(np.arange(size, dtype=np.uint32) for size in sizes))


@contextmanager
def pair(folder: Path, limits: Limits = links.DEFAULT_LIMITS) -> Iterator[tuple[Link, Link]]:
    """The model owner's link, which listened, and the dealer's."""
    address = free_address()
    with ThreadPoolExecutor(1) as executor:
        listening = executor.submit(listen, address, identity(folder, OWNER), DEALER, SOON_S, session=SESSION, limits=limits)
        dealer = connect(address, identity(folder, DEALER), OWNER, SOON_S, session=SESSION, limits=limits)
        owner = listening.result(SOON_S)
    with closing(owner), closing(dealer):
        yield owner, dealer


def failures(listening: Callable[[tuple[str, int]], object], connecting: Callable[[tuple[str, int]], object]) -> tuple[str, str]:
    """What both sides of a connection that must not come about are told."""
    address = free_address()
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(listening, address), executor.submit(connecting, address)]
        errors = [future.exception(2 * SOON_S) for future in futures]
    assert all(isinstance(error, ProtocolError) for error in errors), errors
    told = [str(error) for error in errors]
    assert not any("\n" in line for line in told)
    return told[0], told[1]


def both_fail(own: Identity, other: Identity, expected: Role = DEALER, other_session: bytes = SESSION) -> tuple[str, str]:
    return failures(
        lambda address: listen(address, own, expected, SOON_S, session=SESSION),
        lambda address: connect(address, other, OWNER, SOON_S, session=other_session),
    )


def test_messages_go_both_ways_and_are_counted(folder: Path) -> None:
    with pair(folder) as (owner, dealer):
        assert (owner.peer, dealer.peer) == (DEALER, OWNER)
        for sender, receiver in ((owner, dealer), (dealer, owner)):
            sent = [message(3, 0, 5, stage=1), message(stage=2), message(100_000, 1, stage=3)]
            for each in sent:
                sender.send(each)
            for each in sent:
                found = receiver.receive()
                assert (found.kind, found.batch, found.stage) == (each.kind, each.batch, each.stage)
                assert all(np.array_equal(a, b) for a, b in zip(found.arrays, each.arrays, strict=True))
            assert sender.sent_bytes == receiver.received_bytes == sum(len(part) for each in sent for part in encode(each))


def test_only_tls_1_3_is_spoken(folder: Path) -> None:
    with pair(folder) as (owner, _):
        assert owner._connection.version() == "TLSv1.3"


def test_both_ways_at_once_with_large_messages(folder: Path, pool: ThreadPoolExecutor) -> None:
    large, count = message(4_000_000), 4
    with pair(folder) as (owner, dealer):
        receiving = [pool.submit(lambda link=link: [link.receive() for _ in range(count)]) for link in (owner, dealer)]
        sending = [pool.submit(lambda link=link: [link.send(large) for _ in range(count)]) for link in (owner, dealer)]
        wait(sending, 60)
        for future in receiving:
            assert all(np.array_equal(found.arrays[0], large.arrays[0]) for found in future.result(60))
        assert all(future.exception() is None for future in sending)


def test_messages_of_several_senders_stay_whole(folder: Path, pool: ThreadPoolExecutor) -> None:
    with pair(folder) as (owner, dealer):
        sending = [pool.submit(lambda stage=stage: [owner.send(message(40_000, stage=stage)) for _ in range(10)]) for stage in range(3)]
        stages = [dealer.receive().stage for _ in range(30)]
        assert sorted(stages) == sorted([0, 1, 2] * 10)
        assert all(future.exception(SOON_S) is None for future in sending)


def test_the_listener_may_start_later(folder: Path, pool: ThreadPoolExecutor) -> None:
    address = free_address()
    connecting = pool.submit(connect, address, identity(folder, DEALER), OWNER, SOON_S, session=SESSION)
    assert wait([connecting], 0.5).not_done
    with closing(listen(address, identity(folder, OWNER), DEALER, SOON_S, session=SESSION)) as owner:
        connecting.result(SOON_S).close()
        with pytest.raises(LinkClosed):
            owner.receive()


def test_nobody_listens(folder: Path) -> None:
    with pytest.raises(ProtocolError, match=r"the model owner at 127.0.0.1:\d+ cannot be reached within 0.5 s .* start it, or check"):
        connect(free_address(), identity(folder, DEALER), OWNER, 0.5, session=SESSION)


def test_nobody_connects(folder: Path) -> None:
    with pytest.raises(ProtocolError, match=r"the dealer did not connect to 127.0.0.1:\d+ within 0.2 s; start it"):
        listen(free_address(), identity(folder, OWNER), DEALER, 0.2, session=SESSION)


def test_an_address_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ProtocolError, match=r"cannot listen on 127.0.0.1:.* in use"):
        listen(server.getsockname(), identity(folder, OWNER), DEALER, SOON_S, session=SESSION)


def test_a_connecting_party_of_another_ca_is_refused(folder: Path, strangers: Path) -> None:
    stranger = Identity(strangers / "dealer.pem", strangers / "dealer.key", folder / "ca.pem")
    told, other_told = both_fail(identity(folder, OWNER), stranger)
    assert "the dealer at 127.0.0.1" in told and "does not hold" in told and "same CA" in told
    assert "the model owner at 127.0.0.1" in other_told and "refuses this party" in other_told


def test_a_listening_party_of_another_ca_is_refused(folder: Path, strangers: Path) -> None:
    stranger = Identity(strangers / "model-owner.pem", strangers / "model-owner.key", folder / "ca.pem")
    told, other_told = both_fail(stranger, identity(folder, DEALER))
    assert "refuses this party's certificate" in told
    assert "the model owner at 127.0.0.1" in other_told and "does not hold" in other_told


def test_another_party_of_the_ca_is_refused(folder: Path) -> None:
    told, other_told = both_fail(identity(folder, OWNER), identity(folder, DATA))
    assert "shows the certificate of 'data-owner' where that of 'dealer' is due" in told
    assert "closed the connection during the handshake" in other_told
    told, other_told = both_fail(identity(folder, DATA), identity(folder, DEALER))
    assert "closed the connection during the handshake" in told
    assert "shows the certificate of 'data-owner' where that of 'model-owner' is due" in other_told


def test_an_expired_certificate_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Before(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Before:
            return cls.fromtimestamp(time.time() - 400 * 86400, tz)

    monkeypatch.setattr(certificates, "datetime", Before)
    make_certificates(tmp_path)
    told, other_told = both_fail(identity(tmp_path, OWNER), identity(tmp_path, DEALER))
    assert "refuses this party's certificate" in told
    assert "does not hold: certificate has expired" in other_told


def test_a_client_without_a_certificate_is_refused(folder: Path, pool: ThreadPoolExecutor) -> None:
    address = free_address()
    listening = pool.submit(listen, address, identity(folder, OWNER), DEALER, SOON_S, session=SESSION)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    with raw_connection(address) as plain, suppress(OSError), context.wrap_socket(plain) as connection:
        connection.recv(100)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(listening.exception(SOON_S))


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n" * 10, b"", os.urandom(1000)])
def test_who_speaks_no_tls_is_refused(folder: Path, pool: ThreadPoolExecutor, said: bytes) -> None:
    address = free_address()
    listening = pool.submit(listen, address, identity(folder, OWNER), DEALER, SOON_S, session=SESSION)
    with raw_connection(address) as plain:
        plain.sendall(said)
    error = listening.exception(SOON_S)
    assert isinstance(error, ProtocolError)
    assert "no TLS 1.3 with the dealer" in str(error) or "closed the connection during the handshake" in str(error)


def test_a_silent_peer_ends_the_handshake(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ProtocolError, match="did not answer the handshake in time"):
        connect(server.getsockname(), identity(folder, DEALER), OWNER, 0.3, session=SESSION)


def test_another_session_is_refused_on_both_sides(folder: Path) -> None:
    told, other_told = both_fail(identity(folder, OWNER), identity(folder, DEALER), other_session=bytes(16))
    assert f"is in session {bytes(16).hex()}, this side in {SESSION.hex()}; start all parties with the same session" in told
    assert f"is in session {SESSION.hex()}, this side in {bytes(16).hex()}" in other_told


@pytest.mark.parametrize(
    ("hello", "told"),
    [
        ((b"primia", 9, DEALER, SESSION), "speaks version 9, this side 1"),
        ((b"primia", 1, DATA, SESSION), "says that it has role 1, where 2 is due"),
        ((b"biscui", 1, DEALER, SESSION), "speaks another protocol"),
    ],
)
def test_a_wrong_hello_is_refused(folder: Path, pool: ThreadPoolExecutor, hello: tuple[object, ...], told: str) -> None:
    with tls_peer(folder, pool) as (listening, connection), pytest.raises(ProtocolError, match=told):
        connection.sendall(links._HELLO.pack(*hello))
        listening.result(SOON_S)


def test_a_session_id_has_16_bytes(folder: Path) -> None:
    with pytest.raises(ValueError, match="has 16 bytes, not 3"):
        connect(free_address(), identity(folder, DEALER), OWNER, 1, session=b"abc")


def test_files_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    mixed = Identity(folder / "dealer.pem", folder / "model-owner.key", folder / "ca.pem")
    with pytest.raises(ProtocolError, match=r"cannot use .*dealer.pem.* the key must be unencrypted and fit"):
        connect(free_address(), mixed, OWNER, 1, session=SESSION)
    with pytest.raises(ProtocolError, match=r"certificate files are missing: .*dealer.key"):
        connect(free_address(), Identity(folder / "dealer.pem", tmp_path / "dealer.key", folder / "ca.pem"), OWNER, 1, session=SESSION)


def test_a_peer_that_closes_between_messages(folder: Path) -> None:
    with pair(folder) as (owner, dealer):
        dealer.send(message(3))
        dealer.close()
        dealer.close()
        assert owner.receive().arrays[0].size == 3
        with pytest.raises(LinkClosed, match=r"the dealer at .* closed the connection; see its log"):
            owner.receive()
        with pytest.raises(ProtocolError, match="closed the connection"):
            owner.send(message(3))


def test_what_came_before_a_failed_send_can_be_received(folder: Path) -> None:
    with pair(folder) as (owner, dealer):
        dealer.send(message(3, stage=9))
        dealer.close()
        with pytest.raises(ProtocolError, match=r"the dealer at .* is gone"):
            for _ in range(1000):
                owner.send(message(10_000))
        assert owner.receive().stage == 9


def test_a_peer_that_closes_in_the_middle_of_a_message(folder: Path, pool: ThreadPoolExecutor) -> None:
    with greeted_peer(folder, pool) as (owner, connection):
        connection.sendall(b"".join(encode(message(1000)))[:2000])
        with suppress(OSError):
            connection.settimeout(0.0)
            connection.unwrap()
        with pytest.raises(ProtocolError, match="closed the connection in the middle of a message; see its log"):
            owner.receive()


def test_a_connection_cut_without_a_word_is_no_orderly_end(folder: Path, pool: ThreadPoolExecutor) -> None:
    with greeted_peer(folder, pool) as (owner, connection):
        connection.close()
        with pytest.raises(ProtocolError, match="is gone: it died or the network did") as error:
            owner.receive()
        assert not isinstance(error.value, LinkClosed)


def test_a_peer_that_sends_something_else(folder: Path, pool: ThreadPoolExecutor) -> None:
    with greeted_peer(folder, pool) as (owner, connection):
        connection.sendall(b"x" * 32)
        with pytest.raises(ProtocolError, match=r"message from the dealer at .*: starts with b'xxxx', which is no message"):
            owner.receive()
        with pytest.raises(ProtocolError, match="which is no message"):
            owner.receive()


def test_a_message_over_the_limit(folder: Path) -> None:
    with pair(folder, Limits(message_bytes=1000)) as (owner, dealer):
        dealer.send(message(1000))
        with pytest.raises(ProtocolError, match=r"message from the dealer at .*: 4,080 bytes are over the limit of 1,000"):
            owner.receive()
        assert owner.received_bytes == 80
        with pytest.raises(ProtocolError):
            dealer.receive()


def test_a_silent_peer(folder: Path) -> None:
    with pair(folder, SHORT) as (owner, _), pytest.raises(ProtocolError, match=r"not a byte moved for 0.3 s; see its log, or raise"):
        owner.receive()


def test_a_peer_that_takes_nothing(folder: Path) -> None:
    with pair(folder, SHORT) as (owner, _), pytest.raises(ProtocolError, match=r"not a byte moved for 0.3 s"):
        owner.send(message(20_000_000))


def test_no_idle_timeout(folder: Path, pool: ThreadPoolExecutor) -> None:
    with pair(folder, Limits(idle_timeout_s=math.inf)) as (owner, dealer):
        receiving = pool.submit(owner.receive)
        assert wait([receiving], 0.3).not_done
        dealer.send(message(1, stage=4))
        assert receiving.result(SOON_S).stage == 4


def test_closing_wakes_both_threads(folder: Path, pool: ThreadPoolExecutor) -> None:
    with pair(folder) as (owner, _):
        threads = [pool.submit(owner.receive), pool.submit(owner.send, message(20_000_000))]
        assert wait(threads, 0.5).not_done == set(threads)
        owner.close()
        for thread in threads:
            assert "was closed on this side" in str(thread.exception(SOON_S))


def test_a_message_that_cannot_be_sent_leaves_the_link_whole(folder: Path) -> None:
    with pair(folder) as (owner, dealer):
        with pytest.raises(ValueError, match="cannot carry"):
            owner.send(Message(Kind.BATCH, 1, 0, (np.zeros(3),)))
        owner.send(message(3))
        assert dealer.receive().arrays[0].size == 3


PEER = """
import sys, time
from pathlib import Path
import numpy as np
from primia.inference.links import Identity, connect
from primia.mpc.messages import Kind, Message, Role
folder, port = Path(sys.argv[1]), int(sys.argv[2])
identity = Identity(folder / "dealer.pem", folder / "dealer.key", folder / "ca.pem")
link = connect(("127.0.0.1", port), identity, Role.MODEL_OWNER, 20, session=bytes(range(16)))
link.send(Message(Kind.PLAN, 0, 0, ()))
link.send(Message(Kind.STAGE_KEYS, 1, 0, (np.zeros(100_000_000, np.uint8),)))
"""


def test_a_killed_peer(folder: Path) -> None:
    address = free_address()
    peer = subprocess.Popen([sys.executable, "-c", PEER, str(folder), str(address[1])])
    try:
        with closing(listen(address, identity(folder, OWNER), DEALER, 60, session=SESSION)) as owner:
            assert owner.receive().kind is Kind.PLAN
            assert select.select([owner._connection], [], [], SOON_S)[0]  # the large message has begun
            peer.kill()
            with pytest.raises(ProtocolError, match=r"the dealer at .* is gone in the middle of a message: it died"):
                owner.receive()
    finally:
        peer.kill()
        peer.wait(SOON_S)


def raw_connection(address: tuple[str, int]) -> socket.socket:
    deadline_s = time.monotonic() + SOON_S
    while True:
        try:
            return socket.create_connection(address, SOON_S)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@contextmanager
def tls_peer(folder: Path, pool: ThreadPoolExecutor) -> Iterator[tuple[Future[Link], ssl.SSLSocket]]:
    """A listening model owner, and a connection to it with the dealer's certificate that has not yet said hello."""
    address = free_address()
    listening = pool.submit(listen, address, identity(folder, OWNER), DEALER, SOON_S, session=SESSION)
    context = links._client_context(identity(folder, DEALER))
    with context.wrap_socket(raw_connection(address)) as connection:
        yield listening, connection


@contextmanager
def greeted_peer(folder: Path, pool: ThreadPoolExecutor) -> Iterator[tuple[Link, ssl.SSLSocket]]:
    with tls_peer(folder, pool) as (listening, connection):
        connection.sendall(links._HELLO.pack(b"primia", 1, DEALER, SESSION))
        connection.recv(links._HELLO.size)
        with closing(listening.result(SOON_S)) as owner:
            yield owner, connection
