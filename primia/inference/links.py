"""A direct connection between two parties: TCP with TLS 1.3 on which both sides show a certificate.

A party is known by its *role*, not by its host: its certificate must be issued by the CA that the parties agreed on, and the subject's
common name must be the role's name (``model-owner``, ``data-owner``, ``dealer``). Host names and addresses are not compared with
certificates: a party may move to another host, and a stranger at a party's address has no certificate of that CA.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509

from primia.errors import ProtocolError
from primia.inference.certificates import common_name, party_name, role_of
from primia.mpc.codec import decode_into, encode
from primia.mpc.messages import Message, Role

PROTOCOL_VERSION = 1
SESSION_BYTES = 16

_HELLO = struct.Struct(f"<6sBB{SESSION_BYTES}s")
_HELLO_MAGIC = b"primia"
_RETRY_S = 0.2
_JOINED_BYTES = 2**16  # below, copying costs less than a TLS record for every part

Address = tuple[str, int]


class LinkClosed(ProtocolError):
    """The peer closed the connection between two messages, on purpose."""


@dataclass(frozen=True)
class Identity:
    """Files in PEM: a party's certificate and its unencrypted key, and the certificate of the CA that all parties agreed on."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class Limits:
    """What a peer may cost: bytes of one message, and seconds in which not a byte moves while this side sends or waits for a message."""

    message_bytes: int = 2**30
    idle_timeout_s: float = 60.0


DEFAULT_LIMITS = Limits()


@dataclass
class _Direction:
    """One way of a link: ``turn`` keeps messages whole, ``end`` says why nothing goes this way any more."""

    turn: threading.Lock
    end: str | None = None


class Link:
    """Messages to and from one party, which has proved its role.

    One thread may send while another receives; messages of several senders go out whole, one after the other. ``sent_bytes`` and
    ``received_bytes`` count messages with their headers, without the framing of TLS (about 0.1 %). After an error in ``receive`` the
    link is of no more use; after one in ``send``, what the peer sent before can still be received.
    """

    def __init__(self, connection: ssl.SSLSocket, peer: Role, who: str, limits: Limits) -> None:
        connection.setblocking(False)
        self.peer = peer
        self.sent_bytes = 0
        self.received_bytes = 0
        self._connection = connection
        self._who = who
        self._limits = limits
        # OpenSSL must not read and write one connection at the same time; the socket never blocks, so this lock is held briefly.
        self._openssl = threading.Lock()
        self._outward, self._inward = _Direction(threading.Lock()), _Direction(threading.Lock())
        self._message_start = 0

    def send(self, message: Message) -> None:
        """Hand the whole message to the network; the arrays must not change meanwhile.

        Raises:
            ProtocolError: the peer is gone or took nothing for ``idle_timeout_s``, or the link is closed.
        """
        parts = encode(message)
        if sum(map(len, parts)) <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        with self._outward.turn, self._ending(self._outward):
            for part in parts:
                self._write(memoryview(part))

    def receive(self) -> Message:
        """Wait for the next message; its arrays are new, and received in place.

        Raises:
            LinkClosed: the peer closed the connection after its last message.
            ProtocolError: the peer died or closed in the middle of a message, sent nothing for ``idle_timeout_s``, sent what is no
                message or one over ``message_bytes``, or the link is closed.
        """
        with self._inward.turn, self._ending(self._inward, self._outward):
            self._message_start = self.received_bytes
            return decode_into(self._fill, self._limits.message_bytes, f"message from {self._who}")

    def close(self) -> None:
        """Close the connection; threads that send or receive get a ProtocolError. What was sent still reaches a peer that reads it."""
        with self._openssl:
            if self._inward.end is None and self._outward.end is None:
                with suppress(OSError, ValueError):
                    self._connection.unwrap()
            self._end(f"the connection to {self._who} was closed on this side", socket.SHUT_RDWR, self._inward, self._outward)
        # The descriptor's number may be given away only when no thread polls it any more.
        with self._outward.turn, self._inward.turn:
            self._connection.close()

    def _write(self, rest: memoryview) -> None:
        while len(rest):
            count = self._attempt(self._outward, partial(self._connection.send, rest))
            self.sent_bytes += count
            rest = rest[count:]

    def _fill(self, target: memoryview) -> int:
        done = 0
        while done < len(target):
            count = self._attempt(self._inward, partial(self._connection.recv_into, target[done:]))
            if count == 0:
                raise self._closed_by_peer()
            self.received_bytes += count
            done += count
        return done

    def _attempt(self, direction: _Direction, call: Callable[[], int]) -> int:
        """What ``call`` gives as soon as it need not wait for the network."""
        while True:
            with self._openssl:
                if direction.end is not None:
                    raise ProtocolError(direction.end)
                try:
                    return call()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
                poller = select.poll()
                poller.register(self._connection, event)
            timeout_s = self._limits.idle_timeout_s
            if not poller.poll(None if math.isinf(timeout_s) else timeout_s * 1000):
                raise TimeoutError

    @contextmanager
    def _ending(self, failing: _Direction, *others: _Direction) -> Iterator[None]:
        """Whatever is raised ends these directions, since the next byte would be no beginning of a message."""
        try:
            yield
        except BaseException as error:
            told = self._told(error) if isinstance(error, OSError) else error
            with self._openssl:
                self._end(str(told) or repr(told), socket.SHUT_RDWR if others else socket.SHUT_WR, failing, *others)
            if told is error:
                raise
            raise told from error

    def _end(self, why: str, how: int, *directions: _Direction) -> None:
        for direction in directions:
            direction.end = direction.end or why
        with suppress(OSError):
            # SSLSocket.shutdown would turn the connection into an unencrypted one.
            socket.socket.shutdown(self._connection, how)

    def _told(self, error: OSError) -> ProtocolError:
        if isinstance(error, TimeoutError):
            return ProtocolError(
                f"{self._who}: not a byte moved for {self._limits.idle_timeout_s:g} s; see its log, or raise idle_timeout_s"
            )
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
            return ProtocolError(f"{self._who} is gone{self._midway()}: it died or the network did; see its log, and start again")
        return ProtocolError(f"the connection to {self._who} broke{self._midway()}: {error}; see its log, and start again")

    def _closed_by_peer(self) -> ProtocolError:
        if midway := self._midway():
            return ProtocolError(f"{self._who} closed the connection{midway}; see its log, and start again")
        return LinkClosed(f"{self._who} closed the connection; see its log if more was due")

    def _midway(self) -> str:
        return " in the middle of a message" if self.received_bytes > self._message_start else ""


def listen(
    address: Address,
    identity: Identity,
    peer_role: Role,
    timeout_s: float,
    *,
    session: bytes,
    limits: Limits = DEFAULT_LIMITS,
) -> Link:
    """Wait at ``address`` for the party ``peer_role``, and give the link to it.

    ``session``: 16 bytes on which both sides agreed before. The first that connects must be that party: each pair of parties needs an
    address of its own.

    Raises:
        ProtocolError: the address cannot be used, nobody connects within ``timeout_s``, or who connects shows no certificate of this
            CA and role, or is of another version or session.
    """
    context, hello, deadline_s = _server_context(identity), _hello(identity, session), time.monotonic() + timeout_s
    try:
        with socket.create_server(address, family=_family(address)) as server:
            server.settimeout(_left_s(deadline_s))
            plain, peer_address = server.accept()
    except TimeoutError as error:
        raise ProtocolError(
            f"the {peer_role.label} did not connect to {_shown(address)} within {timeout_s:g} s; start it, or check the address it has"
        ) from error
    except OSError as error:
        raise ProtocolError(f"cannot listen on {_shown(address)}: {error.strerror or error}; choose another address") from error
    return _link(context, plain, hello, peer_role, _named(peer_role, peer_address), limits, deadline_s)


def connect(
    address: Address,
    identity: Identity,
    peer_role: Role,
    timeout_s: float,
    *,
    session: bytes,
    limits: Limits = DEFAULT_LIMITS,
) -> Link:
    """Connect to the party ``peer_role``, which listens at ``address`` or will within ``timeout_s``; the rest as :func:`listen`."""
    context, hello, deadline_s = _client_context(identity), _hello(identity, session), time.monotonic() + timeout_s
    while True:
        try:
            plain = socket.create_connection(address, timeout=_left_s(deadline_s))
            break
        except OSError as error:
            if time.monotonic() + _RETRY_S >= deadline_s:
                raise ProtocolError(
                    f"{_named(peer_role, address)} cannot be reached within {timeout_s:g} s ({error.strerror or error}); "
                    "start it, or check the address and the firewall"
                ) from error
        time.sleep(_RETRY_S)
    return _link(context, plain, hello, peer_role, _named(peer_role, address), limits, deadline_s)


def _server_context(identity: Identity) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0  # nobody resumes, and tickets that a peer never reads would reset the connection when it closes
    return context


def _client_context(identity: Identity) -> ssl.SSLContext:
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity)


def _context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # parties are known by role, see above
    context.verify_mode = ssl.CERT_REQUIRED
    files = (identity.certificate, identity.key, identity.authority)
    if missing := [str(path) for path in files if not path.is_file()]:
        raise ProtocolError(f"certificate files are missing: {', '.join(missing)}; make them, or correct their paths")
    try:
        context.load_cert_chain(identity.certificate, identity.key, password="")  # or OpenSSL asks at the terminal
        context.load_verify_locations(identity.authority)
    except OSError as error:
        shown = ", ".join(map(str, files))
        raise ProtocolError(f"cannot use the certificate, key and CA {shown}: {error}; the key must be unencrypted and fit") from error
    return context


def _link(context: ssl.SSLContext, plain: socket.socket, hello: bytes, peer: Role, who: str, limits: Limits, deadline_s: float) -> Link:
    """The link over a TCP connection, once the peer has proved what it is; otherwise the connection is closed."""
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        connection = context.wrap_socket(plain, server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False)
        with ExitStack() as on_error:
            on_error.callback(connection.close)
            connection.settimeout(_left_s(deadline_s))
            connection.do_handshake()
            _check_name(connection, peer, who)
            _check_hello(_exchanged(connection, hello, deadline_s), hello, peer, who)
            link = Link(connection, peer, who, limits)
            on_error.pop_all()
            return link
    except OSError as error:
        raise _refusal(error, who) from error


def _exchanged(connection: ssl.SSLSocket, hello: bytes, deadline_s: float) -> bytes:
    """The peer's hello for this side's."""
    with suppress(ConnectionError):  # what the peer said before it left tells more
        connection.sendall(hello)
    received = b""
    while len(received) < len(hello):
        connection.settimeout(_left_s(deadline_s))
        if not (data := connection.recv(len(hello) - len(received))):
            raise ConnectionResetError("closed")
        received += data
    return received


def _check_name(connection: ssl.SSLSocket, peer: Role, who: str) -> None:
    name = common_name(x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b""))
    if name != party_name(peer):
        raise ProtocolError(
            f"{who} shows the certificate of {name!r} where that of {party_name(peer)!r} is due; check the addresses, and its certificate"
        )


def _hello(identity: Identity, session: bytes) -> bytes:
    if len(session) != SESSION_BYTES:
        raise ValueError(f"a session id has {SESSION_BYTES} bytes, not {len(session)}")
    return _HELLO.pack(_HELLO_MAGIC, PROTOCOL_VERSION, role_of(identity.certificate), session)


def _check_hello(received: bytes, own: bytes, peer: Role, who: str) -> None:
    magic, version, role, session = _HELLO.unpack(received)
    own_session = _HELLO.unpack(own)[-1]
    if magic != _HELLO_MAGIC:
        raise ProtocolError(f"{who} speaks another protocol; check the address")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"{who} speaks version {version}, this side {PROTOCOL_VERSION}; all parties must run the same version")
    if role != peer:
        raise ProtocolError(f"{who} says that it has role {role}, where {int(peer)} is due; check its settings")
    if session != own_session:
        raise ProtocolError(
            f"{who} is in session {session.hex()}, this side in {own_session.hex()}; start all parties with the same session"
        )


def _refusal(error: OSError, who: str) -> ProtocolError:
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProtocolError(
            f"{who} shows a certificate that does not hold: {error.verify_message}; "
            "all parties need valid certificates of the same CA, whose ca.pem is given to each"
        )
    if isinstance(error, TimeoutError):
        return ProtocolError(f"{who} did not answer the handshake in time; see its log, or allow more time")
    if "ALERT" in reason:
        return ProtocolError(f"{who} refuses this party's certificate ({reason}); all parties need valid certificates of the same CA")
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return ProtocolError(f"{who} closed the connection during the handshake: it refuses this party, or died; its log says why")
    return ProtocolError(f"no TLS 1.3 with {who}: {reason}; check the address, and that both sides run the same version")


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _left_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), 0.001)  # 0 would mean not to block


def _shown(address: tuple[str | int, ...]) -> str:
    return f"{address[0]}:{address[1]}"


def _named(peer: Role, address: tuple[str | int, ...]) -> str:
    return f"the {peer.label} at {_shown(address)}"
