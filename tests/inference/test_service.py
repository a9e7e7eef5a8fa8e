from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from primia.config.settings import InferenceSettings
from primia.errors import KeyReuseError, ModelError, ProtocolError
from primia.inference.mailbox import Mailbox
from primia.inference.service import KeyQueue, Mode, Party, ServiceOptions, deliver, options_of
from primia.mpc.compiler import Compiled
from primia.mpc.keys import BatchKeys
from primia.mpc.messages import Kind, Message, Phase, Role

Make = Callable[..., Any]
OTHERS = (Role.MODEL_OWNER, Role.DEALER)
SOON_S = 30.0
NEAR = 0.05


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture(scope="session")
def run(kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = kit.make_run(tmp_path_factory.mktemp("service") / "run")
    return folder


def images_of(kit: SimpleNamespace, count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, kit.size, kit.size, generator=torch.Generator().manual_seed(seed)).clamp(-1.3, 1.9)


def led(office: Any, mode: Mode = Mode.STREAM) -> Any:
    """The office's data owner, with the others at work."""
    office.serve(*(OTHERS if mode is not Mode.CONSUME else (Role.MODEL_OWNER,)))
    office.data_owner.start(mode)
    return office.data_owner


def outputs(compiled: Compiled, service: Any, batches: list[torch.Tensor]) -> list[NDArray[np.float64]]:
    results = [future.result(SOON_S) for future in [service.request(compiled.encoded(batch)) for batch in batches]]
    assert all(found.result.out_of_range == "" and found.online_s > 0 for found in results)
    return [found.result.outputs for found in results]


def stages(office: Any) -> list[tuple[Role, int]]:
    return [(to, message.stage) for _, to, message in office.said if message.kind is Kind.STAGE_KEYS]


@pytest.mark.parametrize("pipeline", [1, 2])
def test_several_batches_under_way_give_the_outputs_of_the_model(
    office: Make, compiled: Compiled, kit: SimpleNamespace, run: Path, pipeline: int
) -> None:
    here = office(pipeline=pipeline)
    batches = [images_of(kit, count, seed=count) for count in (1, 3, 2, 1)]
    service = led(here)
    found = outputs(compiled, service, batches)
    service.finish()
    for batch, one in zip(batches, found, strict=True):
        assert one == pytest.approx(kit.plain(run, batch), abs=NEAR)
    for role in OTHERS:
        here.ended(role)
    assert service.traffic.sent[Phase.ONLINE] == here.model_owner.traffic.received[Phase.ONLINE] > 0
    assert service.traffic.received[Phase.ONLINE] == here.model_owner.traffic.sent[Phase.ONLINE]
    costs = compiled.program.costs()
    online = service.traffic.sent[Phase.ONLINE] + service.traffic.received[Phase.ONLINE]
    assert online == pytest.approx(7 * costs.online_bytes, rel=0.01)
    assert here.dealer.traffic.received[Phase.ONLINE] == here.dealer.traffic.received[Phase.PREPROCESSING] == 0


def test_keys_too_large_for_memory_are_streamed_with_the_same_result(
    office: Make, compiled: Compiled, kit: SimpleNamespace, run: Path
) -> None:
    here = office(key_bytes=4096)
    service = led(here)
    batches = [images_of(kit, count, seed=count) for count in (2, 1, 2)]
    found = outputs(compiled, service, batches)
    service.finish()
    for batch, one in zip(batches, found, strict=True):
        assert one == pytest.approx(kit.plain(run, batch), abs=NEAR)
    first = next(place for place, (_, _, message) in enumerate(here.said) if message.kind is Kind.SIGN_SHARE)
    dealt = [place for place, (sender, _, _) in enumerate(here.said) if sender is Role.DEALER]
    assert first < dealt[-1], "the online phase began while keys were dealt"


@pytest.mark.parametrize("images", [1, 2])
def test_keys_that_just_fit_do_not_stall(office: Make, compiled: Compiled, kit: SimpleNamespace, images: int) -> None:
    service = led(office(key_bytes=compiled.program.costs().key_bytes * images))
    outputs(compiled, service, [images_of(kit, images)] * 2)
    service.finish()


def test_keys_made_ahead_are_used_without_the_dealer(
    office: Make, compiled: Compiled, kit: SimpleNamespace, run: Path, tmp_path: Path
) -> None:
    before = office(keys=tmp_path)
    service = led(before, Mode.PREPARE)
    for future in [service.prepare_keys(count) for count in (2, 1)]:
        future.result(SOON_S)
    service.finish()
    for role in OTHERS:
        before.ended(role)
    assert not [message for _, _, message in before.said if message.kind.phase is Phase.ONLINE]

    after = office(keys=tmp_path)
    service = led(after, Mode.CONSUME)
    ready = service.stored().ready()
    assert [batch.images for batch in ready] == [2, 1] and after.model_owner.store.ready() == ready
    batches = [images_of(kit, batch.images, seed=batch.images) for batch in ready]
    futures = [service.submit(ready[place].batch, compiled.encoded(batch)) for place, batch in enumerate(batches)]
    for batch, future in zip(batches, futures, strict=True):
        assert future.result(SOON_S).result.outputs == pytest.approx(kit.plain(run, batch), abs=NEAR)
        assert future.result().preprocessing_s == 0
    service.finish()
    after.ended(Role.MODEL_OWNER)
    assert Role.DEALER not in {role for sender, to, _ in after.said for role in (sender, to)}
    assert service.stored().ready() == after.model_owner.store.ready() == [] and not list(tmp_path.glob("*/*.keys"))


def test_keys_that_one_side_has_used_are_refused_by_the_other(
    office: Make, compiled: Compiled, kit: SimpleNamespace, tmp_path: Path
) -> None:
    before = office(keys=tmp_path)
    service = led(before, Mode.PREPARE)
    service.prepare_keys(1).result(SOON_S)
    service.finish()
    before.ended(Role.MODEL_OWNER)
    after = office(keys=tmp_path)
    (ready,) = after.model_owner.store.ready()
    with after.model_owner.store.taking(ready.batch):
        pass
    with pytest.raises(ProtocolError, match="were used before or never made"), after.data_owner.telling(OTHERS):
        led(after, Mode.CONSUME).submit(ready.batch, compiled.encoded(images_of(kit, 1))).result(SOON_S)
    with pytest.raises(KeyReuseError):
        after.ended(Role.MODEL_OWNER)


@pytest.mark.parametrize("mode", [Mode.PREPARE, Mode.CONSUME])
def test_a_mode_that_needs_a_folder_says_so(office: Make, mode: Mode) -> None:
    here = office()
    with pytest.raises(ProtocolError, match="no folder for keys was given"), here.data_owner.telling(OTHERS):
        service = led(here, mode)
        service.prepare_keys(1).result(SOON_S)


def test_finish_ends_all(office: Make) -> None:
    here = office()
    led(here).finish()
    for role in OTHERS:
        assert here.ended(role).sent[Phase.SETUP] > 0


def fail(*_: Any) -> Iterator[Any]:
    raise ModelError("weights eaten by mice")
    yield


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("role", "part", "procedure"),
    [
        (Role.MODEL_OWNER, "_owner", "infer"),
        (Role.MODEL_OWNER, "_owner", "preprocess"),
        (Role.MODEL_OWNER, "_owner", "setup"),
        (Role.DEALER, "_dealer", "preprocess"),
        (Role.DEALER, "_dealer", "setup"),
    ],
)
def test_a_party_that_fails_ends_the_others_with_its_words(
    office: Make, compiled: Compiled, kit: SimpleNamespace, role: Role, part: str, procedure: str, streamed: bool
) -> None:
    here = office(timeout_s=10 * SOON_S, **({"key_bytes": 4096} if streamed else {}))
    setattr(getattr(getattr(here, role.name.lower()), part), procedure, fail)
    with pytest.raises(ProtocolError, match=rf"^the {role.label} failed: weights eaten by mice$"), here.data_owner.telling(OTHERS):
        service = led(here)
        for future in [service.request(compiled.encoded(images_of(kit, 1))) for _ in range(3)]:
            future.result(SOON_S)
    with pytest.raises(ModelError, match=r"^weights eaten by mice$"):
        here.ended(role)
    (other,) = (one for one in OTHERS if one is not role)
    with pytest.raises(ProtocolError, match="weights eaten by mice"):
        here.ended(other)


def test_a_batch_whose_keys_are_dropped_before_they_begin_does_not_wait_for_them(office: Make, compiled: Compiled) -> None:
    service = office(key_bytes=4096).data_owner
    begun, go_on = threading.Event(), threading.Event()

    def blocks(*_: Any) -> Iterator[Any]:
        begun.set()
        go_on.wait(SOON_S)
        raise ModelError("too late")
        yield

    service._owner.preprocess = blocks
    (first, _), (second, made) = (
        service.use(Mode.STREAM, batch, 1, lambda keys: list(keys._records), compiled.program) for batch in (1, 2)
    )
    assert begun.wait(SOON_S)
    service.close()
    with pytest.raises(ProtocolError, match="were not made: the inference ended before it"):
        second.result(SOON_S)
    assert made.cancelled()
    go_on.set()
    with pytest.raises(ModelError, match="too late"):
        first.result(SOON_S)


@pytest.mark.parametrize("procedure", ["infer", "preprocess"])
def test_a_data_owner_that_fails_ends_the_others_without_its_words(
    office: Make, compiled: Compiled, kit: SimpleNamespace, procedure: str
) -> None:
    here = office(timeout_s=10 * SOON_S)
    setattr(here.data_owner._owner, procedure, fail)
    with pytest.raises(ModelError, match=r"^weights eaten by mice$"), here.data_owner.telling(OTHERS):
        led(here).request(compiled.encoded(images_of(kit, 1))).result(SOON_S)
    for role in OTHERS:
        with pytest.raises(ProtocolError, match=r"^the data owner failed: \w+, see its own log$"):
            here.ended(role)


def test_an_error_of_ours_is_told_with_its_kind(office: Make) -> None:
    here = office()
    with pytest.raises(ZeroDivisionError), here.data_owner.telling(OTHERS):
        led(here)
        raise ZeroDivisionError("by zero")
    with pytest.raises(ProtocolError, match=r"^the data owner failed: ZeroDivisionError, see its own log$"):
        here.ended(Role.DEALER)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("kind", "silent"),
    [
        (Kind.STAGE_KEYS, Role.DEALER),
        (Kind.LINEAR_KEYS, Role.DEALER),
        (Kind.RESULT, Role.MODEL_OWNER),
        (Kind.STAGE_OUTPUT, Role.DATA_OWNER),
    ],
)
def test_a_party_that_goes_silent_ends_all(
    office: Make, compiled: Compiled, kit: SimpleNamespace, kind: Kind, silent: Role, streamed: bool
) -> None:
    begun = threading.Event()

    def swallow(sender: Role, to: Role, message: Message) -> Message | None:
        """From a certain kind on, nothing of that party arrives but its failure."""
        if message.kind is kind:
            begun.set()
        return None if sender is silent and begun.is_set() and message.kind is not Kind.FAILED else message

    here = office(intercept=swallow, timeout_s=0.5, **({"key_bytes": 4096} if streamed else {}))
    # A party that waits for the silent one is silent itself, and all wait equally long.
    with (
        pytest.raises(ProtocolError, match=r"the (model owner|data owner|dealer) sent nothing for 0\.5 s"),
        here.data_owner.telling(OTHERS),
    ):
        led(here).request(compiled.encoded(images_of(kit, 1))).result(SOON_S)
    for role in OTHERS:
        with pytest.raises(ProtocolError, match=r"sent nothing for 0\.5 s|the data owner failed: ProtocolError"):
            here.ended(role)


def test_options_follow_the_settings() -> None:
    assert options_of(InferenceSettings(pipeline=3, key_memory=64)) == ServiceOptions(pipeline=3, key_bytes=64 * 2**20)


def test_a_failure_without_words_is_one_still() -> None:
    here = threading.Event()

    class Box:
        def fail(self, error: ProtocolError) -> None:
            assert str(error) == "the dealer failed: without a word"
            here.set()

    deliver(Box(), Role.DEALER, Message(Kind.FAILED, 0, 0, ()))  # type: ignore[arg-type]
    assert here.is_set()


def gone(to: Role, message: Message) -> None:
    raise ProtocolError("the model owner closed the connection")


@pytest.mark.parametrize("told", [True, False])
def test_who_cannot_send_tells_the_peers_last_words_where_it_had_any(told: bool) -> None:
    """The reader of the link comes to them a little later than the sender to the closed connection."""
    mailbox = Mailbox(100)
    closed = ProtocolError("the model owner closed the connection")
    last = partial(mailbox.fail, ProtocolError("the dealer is gone")) if told else partial(mailbox.fail, closed, Role.MODEL_OWNER)
    reader = threading.Timer(0.1, last)
    reader.start()
    with pytest.raises(ProtocolError, match="the dealer is gone" if told else "closed the connection"):
        Party(Role.DATA_OWNER, mailbox, gone, ServiceOptions()).say(Role.MODEL_OWNER, Kind.REQUEST, 1)
    reader.join(SOON_S)


def record(nbytes: int, stage: int = 0) -> Message:
    return Message(Kind.STAGE_KEYS, 1, stage, (np.zeros(nbytes, np.uint8),))


def waits(future: Future[object]) -> bool:
    return bool(wait([future], 0.1).not_done)


def test_a_key_queue_keeps_order_and_ends() -> None:
    queue = KeyQueue(100)
    for stage in range(3):
        queue.keep(record(10, stage))
    queue.end()
    assert [message.stage for message in queue] == [0, 1, 2]
    assert list(queue) == []


def test_a_full_key_queue_waits_for_room(pool: ThreadPoolExecutor) -> None:
    queue = KeyQueue(100)
    queue.keep(record(60))
    late = pool.submit(queue.keep, record(60, 1))
    assert waits(late)
    records = iter(queue)
    assert next(records).stage == 0
    late.result(SOON_S)
    assert next(records).stage == 1


def test_one_record_over_the_limit_passes(pool: ThreadPoolExecutor) -> None:
    queue = KeyQueue(100)
    pool.submit(queue.keep, record(1000)).result(SOON_S)
    assert next(iter(queue)).nbytes == 1000


def test_taking_waits_for_a_record(pool: ThreadPoolExecutor) -> None:
    queue = KeyQueue(100)
    taken = pool.submit(next, iter(queue))
    assert waits(taken)
    queue.keep(record(1, 5))
    assert taken.result(SOON_S).stage == 5


def test_the_end_wakes_who_waits_on_either_side(pool: ThreadPoolExecutor) -> None:
    full, empty = KeyQueue(10), KeyQueue(10)
    full.keep(record(10))
    waiting = [pool.submit(full.keep, record(10)), pool.submit(list, empty)]
    assert all(map(waits, waiting))
    for queue in (full, empty):
        queue.end()
    assert [future.result(SOON_S) for future in waiting] == [None, []]


def test_who_takes_keys_hears_why_they_were_cut_short() -> None:
    queue = KeyQueue(100)
    queue.keep(record(8))
    queue.end(ProtocolError("the dealer died"))
    keys = BatchKeys(1, iter(queue))
    keys.take(Kind.STAGE_KEYS, 0, ((np.uint8, (8,)),))
    with pytest.raises(ProtocolError, match=r"^the dealer died$"):
        keys.take(Kind.STAGE_KEYS, 1, ((np.uint8, (8,)),))
