from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pytest

from primia.errors import KeyReuseError, ProtocolError
from primia.inference.mailbox import Mailbox
from primia.mpc.messages import Kind, Message, Phase, Role

SOON_S = 5.0


def message(kind: Kind = Kind.MASKED_VALUES, batch: int = 1, stage: int = 0, nbytes: int = 8) -> Message:
    return Message(kind, batch, stage, (np.zeros(nbytes, np.uint8),))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def waits(future: Future[object]) -> bool:
    return bool(wait([future], 0.1).not_done)


def test_each_conversation_keeps_its_order() -> None:
    mailbox = Mailbox(100)
    for stage in range(3):
        for sender in (Role.DEALER, Role.DATA_OWNER):
            mailbox.put(sender, message(batch=sender, stage=stage))
            mailbox.put(sender, message(Kind.BATCH, batch=sender, stage=stage))
    for sender in (Role.DATA_OWNER, Role.DEALER):
        for phase in (Phase.ONLINE, Phase.PREPROCESSING):
            found = [mailbox.get(sender, sender, phase, SOON_S) for _ in range(3)]
            assert [(m.kind.phase, m.batch, m.stage) for m in found] == [(phase, sender, stage) for stage in range(3)]


def test_get_waits_for_its_message(pool: ThreadPoolExecutor) -> None:
    mailbox = Mailbox(100)
    got = pool.submit(mailbox.get, Role.DEALER, 1, Phase.ONLINE, SOON_S)
    mailbox.put(Role.DATA_OWNER, message())
    mailbox.put(Role.DEALER, message(batch=2))
    mailbox.put(Role.DEALER, message(Kind.BATCH))
    assert waits(got)
    due = message()
    mailbox.put(Role.DEALER, due)
    assert got.result(SOON_S) is due


def test_get_gives_up_and_says_whom_it_missed() -> None:
    with pytest.raises(ProtocolError, match=r"the data owner sent nothing for 0.01 s in batch 000000000000001f, online"):
        Mailbox(100).get(Role.DATA_OWNER, 31, Phase.ONLINE, 0.01)


def test_a_full_queue_of_preprocessing_holds_back_its_sender_only(pool: ThreadPoolExecutor) -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS, nbytes=60))
    late = pool.submit(mailbox.put, Role.DEALER, message(Kind.STAGE_KEYS, stage=1, nbytes=60))
    assert waits(late)
    mailbox.put(Role.DATA_OWNER, message(Kind.STAGE_KEYS, nbytes=60))
    mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS, batch=2, nbytes=60))
    for _ in range(3):
        mailbox.put(Role.DATA_OWNER, message(nbytes=1000))
    assert waits(late)
    assert mailbox.get(Role.DEALER, 1, Phase.PREPROCESSING, SOON_S).stage == 0
    late.result(SOON_S)
    assert mailbox.get(Role.DEALER, 1, Phase.PREPROCESSING, SOON_S).stage == 1


def test_one_message_over_the_limit_passes() -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS, nbytes=1000))
    assert mailbox.get(Role.DEALER, 1, Phase.PREPROCESSING, SOON_S).nbytes == 1000


def test_a_failure_wakes_every_waiter(pool: ThreadPoolExecutor) -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS, nbytes=100))
    calls: list[Callable[[], object]] = [
        lambda: mailbox.get(Role.DEALER, 1, Phase.ONLINE, SOON_S),
        lambda: mailbox.get(Role.DATA_OWNER, 9, Phase.SETUP, SOON_S),
        lambda: mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS)),
    ]
    waiting = [pool.submit(call) for call in calls]
    assert all(map(waits, waiting))
    error = KeyReuseError("twice")
    mailbox.fail(error)
    mailbox.fail(ProtocolError("a consequence"))
    assert [future.exception(SOON_S) for future in waiting] == [error] * 3
    for call in calls:
        with pytest.raises(KeyReuseError, match="twice"):
            call()


def test_what_came_before_a_failure_can_be_taken() -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message())
    mailbox.fail(ProtocolError("closed"))
    assert mailbox.get(Role.DEALER, 1, Phase.ONLINE, SOON_S).batch == 1
    with pytest.raises(ProtocolError, match="closed"):
        mailbox.get(Role.DEALER, 1, Phase.ONLINE, SOON_S)


def test_discarding_drops_a_batch_and_wakes_who_waits_for_it(pool: ThreadPoolExecutor) -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message(Kind.STAGE_KEYS, nbytes=100))
    mailbox.put(Role.DEALER, message(batch=2))
    late = pool.submit(mailbox.put, Role.DEALER, message(Kind.STAGE_KEYS))
    got = pool.submit(mailbox.get, Role.DEALER, 1, Phase.ONLINE, SOON_S)
    assert waits(late) and waits(got)
    mailbox.discard(1)
    late.result(SOON_S)
    with pytest.raises(ProtocolError, match="the batch was discarded"):
        got.result(SOON_S)
    mailbox.put(Role.DEALER, message())
    with pytest.raises(ProtocolError, match="the batch was discarded"):
        mailbox.get(Role.DEALER, 1, Phase.ONLINE, SOON_S)
    assert mailbox.get(Role.DEALER, 2, Phase.ONLINE, SOON_S).batch == 2
    assert mailbox._queues == {}


def test_batch_0_goes_on_after_it_is_discarded() -> None:
    mailbox = Mailbox(100)
    mailbox.put(Role.DEALER, message(Kind.PLAN, batch=0))
    mailbox.discard(0)
    mailbox.put(Role.DEALER, message(Kind.PLAN, batch=0))
    assert mailbox.get(Role.DEALER, 0, Phase.SETUP, SOON_S).kind is Kind.PLAN


def test_only_so_many_discarded_batches_are_remembered() -> None:
    mailbox = Mailbox(100)
    for batch in range(1, 5001):
        mailbox.discard(batch)
    assert len(mailbox._discarded) == 4096
    assert 5000 in mailbox._discarded


def test_many_threads_lose_nothing(pool: ThreadPoolExecutor) -> None:
    mailbox, count = Mailbox(20), 200

    def put(sender: Role) -> None:
        for stage in range(count):
            mailbox.put(sender, message(Kind.STAGE_KEYS, stage=stage))

    def get(sender: Role) -> list[int]:
        return [mailbox.get(sender, 1, Phase.PREPROCESSING, SOON_S).stage for _ in range(count)]

    got = [pool.submit(get, sender) for sender in Role]
    for future in [pool.submit(put, sender) for sender in Role]:
        future.result(2 * SOON_S)
    assert [future.result(SOON_S) for future in got] == [list(range(count))] * 3


def test_waiting_costs_no_time_of_the_processor() -> None:
    mailbox = Mailbox(100)
    threading.Timer(0.3, lambda: mailbox.put(Role.DEALER, message())).start()
    before_s = time.thread_time()
    mailbox.get(Role.DEALER, 1, Phase.ONLINE, SOON_S)
    assert time.thread_time() - before_s < 0.1
