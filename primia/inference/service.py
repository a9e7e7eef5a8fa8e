"""Parties at work, whatever carries their messages: the data owner leads, model owner and dealer serve.

The data owner asks for a batch (a random number and a count of images); each party then makes the batch's keys on one thread,
one batch after the other, and runs its online phase on one of a few others, so that several batches are under way at once. Keys of a batch
that fit into ``key_bytes`` are all made before its online phase begins; larger ones stream from one to the other.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from primia.config.settings import InferenceSettings
from primia.errors import PrimiaError, ProtocolError
from primia.inference.keystore import KeyStore
from primia.inference.mailbox import Mailbox
from primia.mpc.data_owner import DataOwner, Result
from primia.mpc.dealer import Dealer
from primia.mpc.keys import BatchKeys, Keep
from primia.mpc.messages import Kind, Message, Phase, Procedure, Receive, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.program import Program
from primia.mpc.ring import Ring

T = TypeVar("T")
Sender = Callable[[Role, Message], None]
_FOREVER_S = 30 * 24 * 3600.0


class Mode(IntEnum):
    """What becomes of keys: used at once, put away for later, or taken from where they were put."""

    STREAM = 0
    PREPARE = 1
    CONSUME = 2


@dataclass(frozen=True)
class ServiceOptions:
    """Of every party alike.

    Attributes:
        pipeline: batches in their online phase at once.
        key_bytes: a batch's keys in memory, for one party.
        timeout_s: without a message that is due, the peer is given up.
    """

    pipeline: int = 2
    key_bytes: int = 2**30
    timeout_s: float = 120.0


def options_of(settings: InferenceSettings) -> ServiceOptions:
    """The options that settings give."""
    return ServiceOptions(settings.pipeline, settings.key_memory * 2**20, settings.timeout)


@dataclass
class Traffic:
    """Bytes and messages of one party, by phase."""

    sent: dict[Phase, int] = field(default_factory=lambda: dict.fromkeys(Phase, 0))
    received: dict[Phase, int] = field(default_factory=lambda: dict.fromkeys(Phase, 0))


class KeyQueue:
    """The records of one batch between the thread that makes them and the one that uses them."""

    def __init__(self, limit_bytes: float) -> None:
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._records: deque[Message] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None

    def keep(self, message: Message) -> None:
        """Queue a record, waiting until there is room for it or the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._records or self._bytes + message.nbytes <= self._limit_bytes)
            self._records.append(message)
            self._bytes += message.nbytes
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more records come, and none that waits for room need wait; ``error``, the reason, is raised to who takes them."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Message]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._records)
                if not self._records:
                    if self._error:
                        raise self._error
                    return
                record = self._records.popleft()
                self._bytes -= record.nbytes
                self._changed.notify_all()
            yield record


def deliver(mailbox: Mailbox, sender: Role, message: Message) -> None:
    """Put a message that has come into the mailbox; a peer's failure ends all waiting at once."""
    if message.kind is Kind.FAILED:
        words = message.arrays[0].tobytes().decode(errors="replace") if message.arrays else "without a word"
        mailbox.fail(ProtocolError(f"the {sender.label} failed: {words}"))
    else:
        mailbox.put(sender, message)


class Party:
    """What all services share: carrying a procedure's messages, and passing on failures."""

    def __init__(self, role: Role, mailbox: Mailbox, send: Sender, options: ServiceOptions) -> None:
        self.role = role
        self.options = options
        self.traffic = Traffic()
        self._mailbox = mailbox
        self._send = send

    def converse(self, procedure: Procedure[T], timeout_s: float | None = None) -> T:
        """Run a procedure to its end over the mailbox."""
        answer: Message | None = None
        while True:
            try:
                request = procedure.send(answer)  # type: ignore[arg-type]  # a generator takes None after a send
            except StopIteration as end:
                result: T = end.value
                return result
            answer = None
            if isinstance(request, Receive):
                answer = self._receive(request, timeout_s)
            else:
                self.send(request.to, request.message)

    def send(self, to: Role, message: Message) -> None:
        """Hand a message over, and count it."""
        self.traffic.sent[message.kind.phase] += message.nbytes
        try:
            self._send(to, message)
        except ProtocolError as error:
            raise self._mailbox.reason(to, error) from None

    def _receive(self, request: Receive, timeout_s: float | None) -> Message:
        message = self._mailbox.get(request.sender, request.batch, request.phase, timeout_s or self.options.timeout_s)
        self.traffic.received[request.phase] += message.nbytes
        return message

    def control(self, sender: Role) -> Message:
        """The next message of control, however long it takes."""
        return self._mailbox.get(sender, 0, Phase.CONTROL, _FOREVER_S)

    def say(self, to: Role, kind: Kind, *numbers: int) -> None:
        """Send a message of control."""
        self.send(to, Message(kind, 0, 0, (np.array(numbers, np.uint64),)))

    @contextmanager
    def telling(self, peers: tuple[Role, ...]) -> Iterator[None]:
        """Tell the peers and this party's own threads when it fails, so that they need not wait for it."""
        try:
            yield
        except BaseException as error:
            text = str(error) if isinstance(error, PrimiaError) else f"{type(error).__name__}: {error}"
            # The data owner's own words may name files, folders and patients, which are for nobody else.
            told = f"{type(error).__name__}, see its own log" if self.role is Role.DATA_OWNER else text
            for peer in peers:
                with suppress(Exception):  # it may be the one that is gone
                    self._send(peer, Message(Kind.FAILED, 0, 0, (np.frombuffer(told.encode(), np.uint8),)))
            self._mailbox.fail(ProtocolError(text))
            raise


class DealerService(Party):
    """Serves requests for keys until the data owner says that there are no more."""

    def __init__(self, dealer: Dealer, mailbox: Mailbox, send: Sender, options: ServiceOptions) -> None:
        super().__init__(Role.DEALER, mailbox, send, options)
        self._dealer = dealer

    def serve(self) -> Traffic:
        """Run to the end; returns what was sent."""
        with self.telling((Role.MODEL_OWNER, Role.DATA_OWNER)):
            self.control(Role.DATA_OWNER)
            self.converse(self._dealer.setup(), _FOREVER_S)
            while (message := self.control(Role.DATA_OWNER)).kind is Kind.REQUEST:
                batch, images = map(int, message.arrays[0])
                self.converse(self._dealer.preprocess(batch, images))
        return self.traffic


class _Work(Protocol):
    def preprocess(self, batch: int, images: int, keep: Keep) -> Procedure[None]: ...


class ComparingService(Party):
    """What model owner and data owner share: one thread that makes keys, and a few that use them."""

    def __init__(self, role: Role, work: _Work, mailbox: Mailbox, send: Sender, options: ServiceOptions) -> None:
        super().__init__(role, mailbox, send, options)
        self._work = work
        self.store: KeyStore | None = None
        self._makers = ThreadPoolExecutor(1, "keys")
        self._users = ThreadPoolExecutor(options.pipeline, "online")

    def close(self) -> None:
        """Let the threads go; what has not begun is dropped."""
        for pool in (self._makers, self._users):
            pool.shutdown(wait=False, cancel_futures=True)

    def stored(self) -> KeyStore:
        """The key store, which this mode needs."""
        if self.store is None:
            raise ProtocolError("no folder for keys was given; give one with --keys DIR")
        return self.store

    def prepare(self, batch: int, images: int) -> Future[None]:
        """Make the keys of a batch and put them away."""

        def make() -> None:
            with self.stored().writing(batch, images) as keep:
                self.converse(self._work.preprocess(batch, images, keep))

        return self._makers.submit(make)

    def use(
        self, mode: Mode, batch: int, images: int, online: Callable[[BatchKeys], T], program: Program
    ) -> tuple[Future[T], Future[float]]:
        """Start a batch: the online result, and the seconds that its keys took."""
        if mode is Mode.CONSUME:
            none: Future[float] = Future()
            none.set_result(0.0)
            return self._users.submit(self._from_store, batch, online), none
        whole = program.costs().key_bytes * images <= self.options.key_bytes
        queue = KeyQueue(math.inf if whole else self.options.key_bytes)  # records are a little larger than their keys
        made = self._makers.submit(self._make, batch, images, queue)
        made.add_done_callback(lambda done: queue.end(_cause(done)))  # also when it is dropped before it begins

        def run() -> T:
            if whole:
                made.result()
            try:
                return online(BatchKeys(batch, iter(queue)))
            finally:
                queue.end()

        return self._users.submit(run), made

    def _make(self, batch: int, images: int, queue: KeyQueue) -> float:
        begun = perf_counter()
        self.converse(self._work.preprocess(batch, images, queue.keep))
        return perf_counter() - begun

    def _from_store(self, batch: int, online: Callable[[BatchKeys], T]) -> T:
        with self.stored().taking(batch) as keys:
            return online(keys)


def _cause(made: Future[float]) -> BaseException | None:
    if made.cancelled():
        return ProtocolError("the keys of this batch were not made: the inference ended before it")
    return made.exception()


class ModelOwnerService(ComparingService):
    """Serves batches until the data owner says that there are no more."""

    def __init__(self, owner: ModelOwner, mailbox: Mailbox, send: Sender, options: ServiceOptions, store: KeyStore | None = None) -> None:
        super().__init__(Role.MODEL_OWNER, owner, mailbox, send, options)
        self._owner = owner
        self.store = store
        self._failure: BaseException | None = None

    def serve(self) -> Traffic:
        """Run to the end; returns what was sent and received."""
        with self.telling((Role.DATA_OWNER, Role.DEALER)):
            try:
                self._serve()
            except ProtocolError as error:
                raise self._failure or error from None
            finally:
                self.close()
        return self.traffic

    def _serve(self) -> None:
        mode = Mode(int(self.control(Role.DATA_OWNER).arrays[0][0]))
        if mode is not Mode.CONSUME:
            self.converse(self._owner.setup())
        waiting: deque[Future[Any]] = deque()
        while (message := self.control(Role.DATA_OWNER)).kind is Kind.REQUEST:
            batch, images = map(int, message.arrays[0])
            while waiting and waiting[0].done():
                waiting.popleft().result()
            started = (self.prepare(batch, images),) if mode is Mode.PREPARE else self._start(mode, batch, images)
            for future in started:
                future.add_done_callback(self._look)
            waiting.extend(started)
        for future in waiting:
            future.result()

    def _look(self, done: Future[Any]) -> None:
        """Wake :meth:`_serve`, which waits for the data owner's next word, when a batch has failed."""
        if not done.cancelled() and (error := done.exception()):
            self._failure = self._failure or error
            self._mailbox.fail(ProtocolError(str(error)))

    def _start(self, mode: Mode, batch: int, images: int) -> tuple[Future[Any], ...]:
        return self.use(mode, batch, images, lambda keys: self.converse(self._owner.infer(images, keys)), self._owner.program)


@dataclass(frozen=True, eq=False)
class BatchResult:
    """One batch as the data owner saw it."""

    result: Result
    online_s: float
    preprocessing_s: float


class DataOwnerService(ComparingService):
    """Leads: asks for batches and gets their results."""

    def __init__(self, owner: DataOwner, mailbox: Mailbox, send: Sender, options: ServiceOptions, keys: Path | None = None) -> None:
        super().__init__(Role.DATA_OWNER, owner, mailbox, send, options)
        self._owner = owner
        self._keys = keys
        self._mode = Mode.STREAM

    @property
    def program(self) -> Program:
        """The plan, once :meth:`start` has returned."""
        return self._owner.program

    def start(self, mode: Mode) -> Program:
        """Begin with the others, and return the plan."""
        self._mode = mode
        if mode is Mode.CONSUME and self._keys:
            self.store = KeyStore.open(self._keys)
        for role in self._served():
            self.say(role, Kind.START, int(mode))
        if mode is Mode.CONSUME:
            self._owner.program = self.stored().program
        else:
            self.converse(self._owner.setup(), _FOREVER_S)
        if mode is Mode.PREPARE and self._keys:
            self.store = KeyStore.create(self._keys, self.program, self.program.fingerprint)
        return self.program

    def request(self, images: Ring) -> Future[BatchResult]:
        """Ask for the result of encoded images (C, B, H, W) with fresh keys."""
        return self.submit(secrets.randbits(64), images)

    def submit(self, batch: int, images: Ring) -> Future[BatchResult]:
        """Ask for the result of encoded images under the keys of ``batch``."""
        count = images.shape[1]
        for role in self._served():
            self.say(role, Kind.REQUEST, batch, count)
        online, made = self.use(self._mode, batch, count, lambda keys: self._timed(images, keys), self.program)
        return self._joined(online, made)

    def prepare_keys(self, images: int) -> Future[None]:
        """Ask for keys of so many images, to be put away by both."""
        batch = secrets.randbits(64)
        for role in self._served():
            self.say(role, Kind.REQUEST, batch, images)
        return self.prepare(batch, images)

    def finish(self) -> None:
        """Say that no more is wanted."""
        for role in self._served():
            self.say(role, Kind.FINISH)
        self.close()

    def _served(self) -> tuple[Role, ...]:
        return (Role.MODEL_OWNER,) if self._mode is Mode.CONSUME else (Role.MODEL_OWNER, Role.DEALER)

    def _timed(self, images: Ring, keys: BatchKeys) -> tuple[Result, float]:
        begun = perf_counter()
        return self.converse(self._owner.infer(images, keys)), perf_counter() - begun

    def _joined(self, online: Future[tuple[Result, float]], made: Future[float]) -> Future[BatchResult]:
        joined: Future[BatchResult] = Future()

        def finish(done: Future[tuple[Result, float]]) -> None:
            try:
                result, online_s = done.result()
                joined.set_result(BatchResult(result, online_s, made.result()))
            except BaseException as error:
                joined.set_exception(error)

        online.add_done_callback(finish)
        return joined
