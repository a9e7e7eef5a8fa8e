"""The tests that settle it: the secure result is the oracle's, and nobody sees what is not theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count, groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from primia.errors import KeyReuseError, ProtocolError
from primia.mpc.blocks import widest
from primia.mpc.keys import BatchKeys
from primia.mpc.linear import Wires
from primia.mpc.local import run_together
from primia.mpc.messages import Kind, Message, Phase, Role, Send
from primia.mpc.program import INPUT, Layer, Program, Term
from primia.mpc.ring import Window, pack
from primia.mpc.workers import Workers

ONE, POOL = Window((1, 1), (1, 1), (0, 0)), Window((2, 2), (2, 2), (0, 0))
S, C, D = Role.MODEL_OWNER, Role.DATA_OWNER, Role.DEALER
MANY = 128
TELLING = ["max 3, padded", "residual", "28-bit ring", "44-bit ring"]
"""Programs that together send every kind of message, in rings that fill their type and that do not."""

Said = list[tuple[Role, Role, Message]]


# --- the result --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("aes", ["native", "portable"])
def test_the_secure_result_is_the_oracles(kit: SimpleNamespace, program_name: str, aes: str, images: int) -> None:
    if aes == "native" and not widest():
        pytest.skip("this processor has no AES instructions")
    parties = kit.parties(program_name, aes=aes)
    kept, values = parties.preprocess(images), kit.encoded_images(parties.program, images)
    result = parties.online(values, kept)
    assert kit.same_results(result, parties.oracle(values, kept))
    assert result.outputs.any() and not result.out_of_range


@pytest.mark.parametrize(
    ("name", "pooling", "size"),
    [("convnet", pooling, size) for pooling in ("max", "avg") for size in (28, 32)] + [("resnet18", "max", 32), ("resnet18", "avg", 32)],
)
def test_the_secure_result_of_every_shipped_network(kit: SimpleNamespace, name: str, pooling: str, size: int) -> None:
    model, images, compiled = kit.shipped(name, pooling, size)
    parties = kit.parties_of(compiled.program, compiled.weights, list(compiled.biases))
    kept, values = parties.preprocess(2), compiled.encoded(images[:2])
    result = parties.online(values, kept)
    assert kit.same_results(result, parties.oracle(values, kept))
    assert np.abs(result.outputs - model(images[:2]).detach().numpy()).max() < 0.1 and not result.out_of_range


# --- costs -------------------------------------------------------------------------------------------------------


def sent_bytes(said: Said, phase: Phase) -> int:
    return sum(message.nbytes for _, _, message in said if message.kind.phase is phase)


@pytest.fixture
def run_of_one(kit: SimpleNamespace, program_name: str) -> tuple[Any, dict[Role, list[Message]]]:
    parties = kit.parties(program_name)
    kept = parties.preprocess(1)
    parties.online(kit.encoded_images(parties.program, 1), kept)
    return parties, kept


def test_online_costs_are_as_planned(run_of_one: tuple[Any, Any]) -> None:
    parties, _ = run_of_one
    costs, online = parties.program.costs(), [sender for sender, _, message in parties.said if message.kind.phase is Phase.ONLINE]
    assert sent_bytes(parties.said, Phase.ONLINE) == pytest.approx(costs.online_bytes, rel=0.01)
    assert len(list(groupby(online))) == 2 * costs.exchanges


def test_setup_costs_are_as_planned(run_of_one: tuple[Any, Any]) -> None:
    parties, _ = run_of_one
    weights = sum(message.nbytes for _, _, message in parties.said if message.kind is Kind.MASKED_WEIGHTS)
    assert weights == pytest.approx(parties.program.costs().setup_bytes, rel=0.01)


def test_preprocessing_costs_are_as_planned(run_of_one: tuple[Any, Any]) -> None:
    parties, _ = run_of_one
    assert sent_bytes(parties.said, Phase.PREPROCESSING) == pytest.approx(parties.program.costs().offline_bytes, rel=0.01)


def test_key_bytes_are_as_planned(run_of_one: tuple[Any, Any]) -> None:
    parties, kept = run_of_one
    costs = parties.program.costs()
    assert sum(record.nbytes for record in kept[C]) == pytest.approx(costs.common_key_bytes, rel=0.01)
    assert sum(record.nbytes for record in kept[S]) == pytest.approx(costs.key_bytes, rel=0.01)


# --- keys are used once ------------------------------------------------------------------------------------------


def infer(parties: Any, keys: dict[Role, BatchKeys], images: Any) -> None:
    run_together({S: parties.model_owner.infer(images.shape[1], keys[S]), C: parties.data_owner.infer(images, keys[C])})


@pytest.mark.parametrize("reader", [S, C])
def test_keys_that_were_read_are_spent(kit: SimpleNamespace, reader: Role) -> None:
    parties = kit.parties("max 2")
    images, kept = kit.encoded_images(parties.program, 1), parties.preprocess(1)
    keys = {role: BatchKeys(kit.batch, iter(records)) for role, records in kept.items()}
    infer(parties, keys, images)
    again = {role: keys[role] if role is reader else BatchKeys(kit.batch, iter(kept[role])) for role in kept}
    with pytest.raises(KeyReuseError, match="batch 0000000000abcdef are used up"):
        infer(parties, again, images)


@pytest.mark.parametrize(
    ("batch", "due"), [(1, "BATCH of stage 0"), (0xABCDEF, "LINEAR_SHARE of stage 0|LINEAR_SHARE in the keys|STAGE_KEYS in the keys")]
)
def test_keys_of_another_batch_or_plan_are_refused(kit: SimpleNamespace, batch: int, due: str) -> None:
    parties, other = kit.parties("residual"), kit.parties("max 2")
    images, kept = kit.encoded_images(parties.program, 1), other.preprocess(1)
    for role in (S, C):
        keys = {each: BatchKeys(batch, iter((kept if each is role else parties.preprocess(1, batch))[each])) for each in (S, C)}
        with pytest.raises(ProtocolError, match=due):
            infer(parties, keys, images)


@pytest.mark.parametrize("role", [S, C])
def test_keys_that_are_cut_short_or_for_fewer_images_are_refused(kit: SimpleNamespace, role: Role) -> None:
    parties = kit.parties("relu")
    images, kept, fewer = kit.encoded_images(parties.program, 2), parties.preprocess(2), parties.preprocess(1)
    for records, due in ((kept[role][:-1], "cut short"), (fewer[role], "in the keys, .* where .* is due")):
        keys = {each: BatchKeys(kit.batch, iter(records if each is role else kept[each])) for each in (S, C)}
        with pytest.raises(ProtocolError, match=due):
            infer(parties, keys, images)


# --- what leaves its range is named ------------------------------------------------------------------------------


def found_range(kit: SimpleNamespace, program: Program, weights: Any, biases: Any, images: Any) -> str:
    """The secure run's verdict, which must be the oracle's."""
    parties = kit.parties_of(program, weights, biases)
    kept = parties.preprocess(images.shape[1])
    result, due = parties.online(images, kept), parties.oracle(images, kept)
    assert result.out_of_range == due.out_of_range
    assert result.out_of_range or kit.same_results(result, due)
    return str(result.out_of_range)


def bounds_program(kit: SimpleNamespace, bits: int, pool_bits: int, pool: Window | None) -> tuple[Program, Any, Any]:
    """A network that takes a (1, 2, 2) map as it is: after dropping the weights' fraction a value is just the encoded pixel."""
    layer = kit.relu_layer("a", [Term(INPUT, ONE)], (1, 2, 2), comparison_bits=bits, pool=pool, pool_bits=pool_bits)
    shape = (1, 1, 1) if pool else (1, 2, 2)
    program = kit.program_of([layer, kit.last_layer("a.out", ONE, shape)], (1, 2, 2))
    one, zero = np.full((1, 1), 2**12, np.uint32), np.zeros(1, np.uint32)
    return program, [[one], [one]], [zero, zero]


def pixels(*values: int) -> NDArray[np.uint32]:
    return np.array(values, np.int64).astype(np.uint32).reshape(1, -1, 2, 2)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (2**15 - 1, ""),
        (-(2**15), ""),
        (2**15, "a"),
        (-(2**15) - 1, "a"),
        (2**17 + 5, "a"),
    ],
)
def test_a_value_is_named_just_where_it_leaves_its_range(kit: SimpleNamespace, place: int, value: int, named: str) -> None:
    program = bounds_program(kit, 15, 0, None)
    values = [5, -7, 0, 12]
    values[place] = value
    assert found_range(kit, *program, pixels(1, 2, 3, 4, *values, 5, 6, 7, 8)) == named


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((0, 2**12 - 1, 0, 0), ""),
        ((2**12, 0, 5, 5), ""),
        ((0, 0, 2**11, -(2**11)), ""),
        ((2**12 - 1, 0, 0, 0), ""),
        ((0, 0, 2**12 - 1, 0), ""),
        ((0, 2**12, 0, 0), "a"),
        ((2**12 + 1, 0, 0, 0), "a"),
        ((0, 0, -(2**11), 2**11), "a"),
        ((-(2**11), -(2**11), 2**11, 2**11), "a"),
        ((2**12 + 1, 2**12 + 1, 0, 0), "a"),
    ],
)
def test_a_difference_is_named_just_where_it_leaves_its_range(kit: SimpleNamespace, values: tuple[int, ...], named: str) -> None:
    """Of two columns first, then of two rows."""
    assert found_range(kit, *bounds_program(kit, 15, 12, POOL), pixels(*values)) == named


@pytest.mark.parametrize(("bias", "named"), [(0, "head"), (-1, ""), (-(2**31) + 1, ""), (-(2**31), "head")])
def test_the_last_layer_is_named_just_where_it_leaves_the_ring(kit: SimpleNamespace, bias: int, named: str) -> None:
    program, weights, biases = bounds_program(kit, 15, 0, None)
    weights[1], biases[1] = [np.full((1, 1), 2**16, np.uint32)], np.array([bias % 2**32], np.uint32)
    assert found_range(kit, program, weights, biases, pixels(2**14, 2**14, 2**14, 2**14)) == named


@pytest.mark.parametrize("name", ["relu", "max 3, padded", "residual", "44-bit ring"])
def test_one_image_that_is_too_bright_is_named(kit: SimpleNamespace, name: str) -> None:
    program = kit.program(name)
    images = kit.encoded_images(program, 3)
    first = program.layers[0]
    bright = images.copy()
    bright[:, 1] *= np.array(30 * 2 ** (first.comparison_bits - 15), bright.dtype)
    assert found_range(kit, program, *kit.random_weights(program), images) == ""
    assert found_range(kit, program, *kit.random_weights(program), bright) == "a"
    pixel = images.copy()
    pixel[0, 2, 3, 3] = 2 ** (first.comparison_bits + 1)
    assert found_range(kit, program, *kit.random_weights(program), pixel) == "a"


@pytest.mark.parametrize(("scaled", "named"), [((0,), "a"), ((1,), "b"), ((2,), "c"), ((1, 2), "b"), ((0, 1, 2), "a")])
def test_the_first_layer_whose_weights_are_too_large_is_named(kit: SimpleNamespace, scaled: tuple[int, ...], named: str) -> None:
    program = kit.program("residual")
    weights, biases = kit.random_weights(program)
    for index in scaled:
        weights[index] = [matrix * np.uint32(24) for matrix in weights[index]]
    assert found_range(kit, program, weights, biases, kit.encoded_images(program, 2)) == named


# --- what the parties see ----------------------------------------------------------------------------------------


def telling_parts(message: Message, program: Program) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What of a message must be uniform, as bytes, without the padding at the end of packed arrays."""
    kind, arrays = message.kind, message.arrays
    if kind in (Kind.MASKED_WEIGHTS, Kind.LINEAR_KEYS, Kind.LINEAR_SHARE, Kind.INPUT, Kind.MASKED_VALUES, Kind.RESULT):
        packed = arrays[:1] if kind is Kind.RESULT else arrays  # behind the result stand hashes of uniform shares
        yield from ((kind.name, array[:-4]) for array in packed)
    elif kind is Kind.SIGN_SHARE:
        yield kind.name, arrays[0][:-1]
    elif kind is Kind.STAGE_OUTPUT:
        yield f"{kind.name}, signs", arrays[0][:-1]
        yield f"{kind.name}, values", arrays[1][:-4]
    elif kind is Kind.STAGE_CORRECTIONS:
        yield f"{kind.name}, table", pack(arrays[0], program.bits)[:-4]
        yield f"{kind.name}, check", arrays[1].reshape(-1)
    elif kind is Kind.STAGE_KEYS:
        yield f"{kind.name}, words", arrays[0].reshape(-1).view(np.uint8)
        yield f"{kind.name}, leaves", arrays[1].reshape(-1).view(np.uint8)
        planes, levels = np.unpackbits(arrays[2], axis=0, bitorder="little"), len(arrays[0])
        assert not planes[levels:].any()
        yield f"{kind.name}, flags", np.packbits(planes[:levels])


def zeros_like(weights: Any, biases: Any) -> tuple[Any, Any]:
    return [[np.zeros_like(matrix) for matrix in terms] for terms in weights], [np.zeros_like(bias) for bias in biases]


def run_of_many(kit: SimpleNamespace, name: str, images: str = "random", weights: str = "random", seed: int = 0) -> Any:
    """Parties after one batch of many images."""
    program = kit.program(name)
    values = kit.encoded_images(program, MANY, seed)
    values = {"random": values, "zero": np.zeros_like(values), "same": np.repeat(values[:, :1], MANY, axis=1)}[images]
    matrices, biases = kit.random_weights(program, seed)
    parties = kit.parties_of(program, *(zeros_like(matrices, biases) if weights == "zero" else (matrices, biases)))
    parties.kept = parties.preprocess(MANY)
    parties.result = parties.online(np.ascontiguousarray(values), parties.kept)
    return parties


@pytest.mark.parametrize(
    ("images", "weights"), [("random", "random"), ("zero", "random"), ("same", "random"), ("random", "zero"), ("zero", "zero")]
)
def test_every_message_is_uniform(kit: SimpleNamespace, images: str, weights: str) -> None:
    parts: dict[str, list[NDArray[np.uint8]]] = {}
    for name in TELLING:
        parties = run_of_many(kit, name, images, weights)
        said = {id(message): message for _, _, message in parties.said}  # both parties are sent the same common keys: count them once
        for message in said.values():
            for what, data in telling_parts(message, parties.program):
                parts.setdefault(what, []).append(data)
    assert len(parts) == 14
    for what, data in parts.items():
        kit.assert_uniform(np.concatenate(data), what)


def test_a_message_without_a_mask_is_not_uniform(kit: SimpleNamespace) -> None:
    bare = pack(kit.encoded_images(kit.program("relu"), MANY), 32)
    with pytest.raises(AssertionError, match="bare"):
        kit.assert_uniform(bare, "bare")


@pytest.mark.parametrize("name", ["28-bit ring", "44-bit ring", "64-bit ring"])
def test_bits_above_the_ring_say_nothing(kit: SimpleNamespace, name: str) -> None:
    """What the model owner's shares of the tables have there is nothing, or uniform; else it would tell of masks."""
    parties = run_of_many(kit, name)
    bits, tables = parties.program.bits, [message.arrays[0] for _, _, message in parties.said if message.kind is Kind.STAGE_CORRECTIONS]
    above = np.concatenate([np.unpackbits(table.reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")[:, bits:] for table in tables])
    if above.any():
        kit.assert_uniform(np.packbits(above), "bits above the ring")


@pytest.mark.parametrize("name", ["max 3, padded", "residual"])
def test_opened_signs_are_fair_coins(kit: SimpleNamespace, name: str) -> None:
    """Both parties learn u = s xor r_s; here every s is one."""
    parties = run_of_many(kit, name, images="zero", weights="zero")
    theirs = [message.arrays[0] for _, _, message in parties.said if message.kind is Kind.SIGN_SHARE]
    ours = [message.arrays[0] for _, _, message in parties.said if message.kind is Kind.STAGE_OUTPUT]
    kit.assert_uniform(np.concatenate([(first ^ second)[:-1] for first, second in zip(theirs, ours, strict=True)]), "u")


def test_the_model_owners_wires_are_uniform(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it puts together from its own shares and what it is sent, though all images and weights are zero."""
    program = kit.program("residual")
    parties = kit.parties_of(program, *zeros_like(*kit.random_weights(program)))
    kept, seen = parties.preprocess(MANY), []
    monkeypatch.setattr(Wires, "set", lambda wires, name, values: seen.append(values) or wires._values.update({name: values}))
    parties.online(np.zeros((2, MANY, 6, 6), np.uint32), kept)
    assert len(seen) == 3
    kit.assert_uniform(np.concatenate([values.reshape(-1).view(np.uint8) for values in seen]), "wires")


def with_fixed_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()
    monkeypatch.setattr("primia.mpc.dealer.fresh_seed", lambda: hashlib.sha256(str(next(numbers)).encode()).digest()[:16])


def received(said: Said, to: Role, *, sender: Role | None = None) -> list[bytes]:
    return [b"".join(a.tobytes() for a in message.arrays) for who, whom, message in said if whom is to and sender in (None, who)]


@pytest.mark.parametrize("name", TELLING)
def test_the_dealers_messages_depend_on_no_input(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the same seeds they are the same, bit for bit, for other weights and images; and the dealer hears the plan alone."""
    runs = []
    for seed, weights in ((0, "random"), (1, "random"), (2, "zero")):
        with_fixed_seeds(monkeypatch)
        runs.append(run_of_many(kit, name, weights=weights, seed=seed))
    for role in (S, C):
        first, *others = [received(run.said, role, sender=D) for run in runs]
        assert first and all(first == other for other in others)
    assert all(received(run.said, D) == [run.program.to_json().encode()] for run in runs)
    assert not np.array_equal(runs[0].result.outputs, runs[1].result.outputs)


@pytest.mark.parametrize("name", TELLING)
def test_sizes_and_order_of_messages_depend_on_no_input(kit: SimpleNamespace, name: str) -> None:
    def course(said: Said) -> list[Any]:
        return [(who, to, m.kind, m.stage, m.batch, [(a.dtype, a.shape) for a in m.arrays]) for who, to, m in said]

    first, *others = [
        run_of_many(kit, name, images, weights) for images, weights in (("random", "random"), ("zero", "random"), ("same", "zero"))
    ]
    assert all(course(first.said) == course(other.said) for other in others)


@pytest.mark.parametrize(("role", "others"), [(S, ("images", "zero")), (C, ("weights", "zero"))])
def test_what_a_party_receives_is_distributed_alike_for_other_inputs(kit: SimpleNamespace, role: Role, others: tuple[str, str]) -> None:
    """Of each message of its own, byte for byte; the data owner's result is meant to tell."""
    runs = [run_of_many(kit, name, **change) for name in ("max 3, padded", "residual") for change in ({}, dict([others]))]
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        pairs = 0
        for (_, to, one), (_, _, two) in zip(first.said, second.said, strict=True):
            if to is role and one.kind is not Kind.RESULT:
                for (what, a), (_, b) in zip(telling_parts(one, first.program), telling_parts(two, second.program), strict=True):
                    if a.size >= 2560:
                        counts = np.stack([np.bincount(data, minlength=256) for data in (a, b)])
                        assert chi2_contingency(counts[:, counts.any(axis=0)]).pvalue > 1e-10, what
                        pairs += 1
        assert pairs > 10


# --- what is not due ---------------------------------------------------------------------------------------------


def tampered(procedure: Any, kind: Kind, change: Callable[[Message], Message]) -> Iterator[Any]:
    """``procedure``, whose messages of ``kind`` are changed on their way."""
    answer = None
    while True:
        try:
            request = procedure.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(request, Send) and request.message.kind is kind:
            request = Send(request.to, change(request.message))
        answer = yield request


CHANGES: dict[str, Callable[[Message], Message]] = {
    "another kind": lambda m: Message(Kind(m.kind + 1 if m.kind % 10 < 2 else m.kind - 1), m.batch, m.stage, m.arrays),
    "another stage": lambda m: Message(m.kind, m.batch, m.stage + 7, m.arrays),
    "truncated": lambda m: Message(m.kind, m.batch, m.stage, (*m.arrays[:-1], m.arrays[-1][..., :-1])),
    "another type": lambda m: Message(m.kind, m.batch, m.stage, (*m.arrays[:-1], m.arrays[-1].astype(np.float64))),
    "an array less": lambda m: Message(m.kind, m.batch, m.stage, m.arrays[:-1]),
    "an array more": lambda m: Message(m.kind, m.batch, m.stage, (*m.arrays, m.arrays[0])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("sender", "kind"),
    [
        (D, Kind.WEIGHT_SEED),
        (S, Kind.MASKED_WEIGHTS),
        (D, Kind.BATCH),
        (D, Kind.LINEAR_KEYS),
        (C, Kind.LINEAR_SHARE),
        (D, Kind.STAGE_KEYS),
        (D, Kind.STAGE_CORRECTIONS),
        (C, Kind.INPUT),
        (S, Kind.MASKED_VALUES),
        (S, Kind.SIGN_SHARE),
        (C, Kind.STAGE_OUTPUT),
        (S, Kind.RESULT),
    ],
    ids=lambda value: value.name,
)
def test_what_is_not_due_is_refused_with_its_sender(kit: SimpleNamespace, sender: Role, kind: Kind, change: str) -> None:
    parties = kit.parties("max 2")
    roles = {D: parties.dealer, S: parties.model_owner, C: parties.data_owner}
    images = kit.encoded_images(parties.program, 1)
    if kind.phase is Phase.SETUP:
        procedures = {role: party.setup() for role, party in roles.items()}
    elif kind.phase is Phase.PREPROCESSING:
        arguments: dict[Role, Any] = {role: (kit.batch, 1, [].append) for role in (S, C)} | {D: (kit.batch, 1)}
        procedures = {role: party.preprocess(*arguments[role]) for role, party in roles.items()}
    else:
        keys = {role: BatchKeys(kit.batch, iter(records)) for role, records in parties.preprocess(1).items()}
        procedures = {S: parties.model_owner.infer(1, keys[S]), C: parties.data_owner.infer(images, keys[C])}
    procedures[sender] = tampered(procedures[sender], kind, CHANGES[change])
    with pytest.raises(ProtocolError, match=f"{kind.name} .*is due|{kind.name} from .*is due") as error:
        run_together(procedures)
    assert f"from the {sender.label}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arrays",
    [
        (),
        (np.frombuffer(b"no plan", np.uint8),),
    ],
)
def test_a_plan_that_is_none_is_refused(kit: SimpleNamespace, arrays: tuple[Any, ...]) -> None:
    parties = kit.parties("relu")
    for role, party in ((D, parties.dealer), (C, parties.data_owner)):
        procedures = {S: tampered(parties.model_owner.setup(), Kind.PLAN, lambda m: Message(m.kind, 0, 0, arrays)), role: party.setup()}
        with pytest.raises(ProtocolError, match="plan"):
            run_together(procedures)


def test_a_layer_may_subtract_a_wire(kit: SimpleNamespace) -> None:
    """BatchNorm with one negative factor for all channels makes such a term."""
    same = kit.same
    layers: list[Layer] = [
        kit.relu_layer("a", [Term(INPUT, same)], (2, 6, 6)),
        kit.relu_layer("b", [Term("a.out", same), Term("a.out", None, -0.5)], (2, 6, 6)),
    ]
    program = kit.program_of([*layers, kit.last_layer("b.out", Window((6, 6), (1, 1), (0, 0)), (3, 1, 1))], (2, 6, 6))
    assert found_range(kit, program, *kit.random_weights(program), kit.encoded_images(program, 2)) == ""


def test_threads_change_nothing(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for threads in (1, 2):
        with_fixed_seeds(monkeypatch)
        parties = kit.parties("max 3, padded")
        for party in (parties.model_owner, parties.data_owner):
            party.workers = Workers(threads)
        parties.dealer._workers = Workers(threads)
        kept = parties.preprocess(MANY)
        outputs.append(parties.online(kit.encoded_images(parties.program, MANY), kept).outputs)
    assert np.array_equal(*outputs)
