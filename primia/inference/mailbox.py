"""A party's received messages, sorted by conversation until its procedures ask for them.

It knows no sockets: the readers of several links put into it, or the methods of a Ray actor that the peers call.
"""

from __future__ import annotations

import threading
from collections import deque

from primia.errors import ProtocolError
from primia.mpc.messages import Message, Phase, Role

_Key = tuple[Role, int, Phase]

_REMEMBERED_BATCHES = 4096
_LAST_WORDS_S = 1.0


class Mailbox:
    """Ordered queues of messages, one for each sender, batch and phase; any thread may call any method.

    Messages of a conversation come out in the order in which they were put; for that, the messages of one sender must be put one
    after the other. A queue of what the dealer sends for a batch holds at most ``limit_bytes`` (and always one message, whatever its
    size): a put that does not fit waits, and so holds back its link. What the other parties send is small, and never held back, since
    an exchange that one batch waits for would then stand behind the keys of the next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._queues: dict[_Key, deque[Message]] = {}
        self._discarded: dict[int, None] = {}  # in the order of discarding
        self._error: ProtocolError | None = None
        self._lost: dict[Role, ProtocolError] = {}

    def put(self, sender: Role, message: Message) -> None:
        """Queue a message of ``sender``, waiting until there is room; what belongs to a discarded batch is dropped.

        Raises:
            ProtocolError: the mailbox has failed.
        """
        key = (sender, *message.conversation)
        with self._changed:
            self._changed.wait_for(lambda: self._error or message.batch in self._discarded or self._fits(key, message))
            if self._error:
                raise self._error
            if message.batch in self._discarded:
                return
            self._queues.setdefault(key, deque()).append(message)
            self._changed.notify_all()

    def get(self, sender: Role, batch: int, phase: Phase, timeout_s: float) -> Message:
        """Take the next message of ``sender`` in the conversation ``(batch, phase)``, waiting for it.

        After a failure, what was put before it can still be taken.

        Raises:
            ProtocolError: nothing came within ``timeout_s``, the batch was discarded, or the mailbox has failed.
        """
        key = (sender, batch, phase)
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or key in self._queues or batch in self._discarded or sender in self._lost, timeout_s
            )
            if key in self._queues:
                return self._take(key)
            where = f"batch {batch:016x}, {phase.name.lower()}"
            if batch in self._discarded:
                raise ProtocolError(f"nothing more can be received from the {sender.label} in {where}: the batch was discarded")
            raise (
                self._error
                or self._lost.get(sender)
                or ProtocolError(f"the {sender.label} sent nothing for {timeout_s:g} s in {where}; see its log, or wait longer")
            )

    def fail(self, error: ProtocolError, sender: Role | None = None) -> None:
        """Wake every waiter with ``error``; from now on whoever would wait, and every put, raises it. The first failure stays.

        With a ``sender``, only for who waits for its messages: it may have left because all was said.
        """
        with self._changed:
            if sender is None:
                self._error = self._error or error
            else:
                self._lost.setdefault(sender, error)
            self._changed.notify_all()

    def reason(self, peer: Role, error: ProtocolError) -> ProtocolError:
        """Find why a message to ``peer`` could not be sent: its own last words, where it had any, else ``error``.

        A peer that fails says why and closes the link; who sends to it notices the second before its reader has come to the first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or peer in self._lost, _LAST_WORDS_S)
            return self._error or error

    def discard(self, batch: int) -> None:
        """Drop what is queued for ``batch`` and what may still come, and wake who waits for it.

        The last 4,096 discarded batches are remembered. Batch 0, to which belongs what is of no batch, goes on afterwards.
        """
        with self._changed:
            for key in [key for key in self._queues if key[1] == batch]:
                del self._queues[key]
            if batch != 0:
                self._discarded[batch] = None
            if len(self._discarded) > _REMEMBERED_BATCHES:
                del self._discarded[next(iter(self._discarded))]
            self._changed.notify_all()

    def _fits(self, key: _Key, message: Message) -> bool:
        queue = self._queues.get(key)
        if not queue or key[0] is not Role.DEALER:
            return True
        return sum(waiting.nbytes for waiting in queue) + message.nbytes <= self._limit_bytes

    def _take(self, key: _Key) -> Message:
        queue = self._queues[key]
        message = queue.popleft()
        if not queue:
            del self._queues[key]
        self._changed.notify_all()
        return message
