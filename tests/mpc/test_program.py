from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from primia.config.settings import ModelSettings
from primia.errors import ProtocolError
from primia.models.registry import build_model
from primia.mpc.messages import Kind, Message
from primia.mpc.network import RealLayer, read_network
from primia.mpc.program import INPUT, Comparison, Layer, Local, Program, Term, comparison_index, comparisons, pooled_shape, stage_number
from primia.mpc.ring import Window


def test_a_program_comes_back_from_its_text(kit: SimpleNamespace, program_name: str) -> None:
    program = kit.program(program_name)
    found = Program.from_message(program.to_message())
    assert found == program and found.fingerprint == program.fingerprint
    assert found.costs() == program.costs()


def test_the_fingerprint_changes_with_the_program(kit: SimpleNamespace) -> None:
    program = kit.program("residual")
    first, *rest = program.steps
    others = [
        replace(program, bits=33),
        replace(program, steps=tuple(rest)),
        replace(program, steps=(replace(first, comparison_bits=14), *rest)),
    ]
    assert len({program.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_another_version_is_refused(kit: SimpleNamespace) -> None:
    document = json.loads(kit.program("relu").to_json()) | {"version": 2}
    with pytest.raises(ProtocolError, match="another version"):
        Program.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [{"step": "import"}]},
        {"steps": [{"step": "layer", "name": "a"}]},
        {"steps": [{"step": "local", "kind": "sum"}]},
        {"steps": 3},
        {"input_shape": None},
        {"colour": "red"},
    ],
    ids=str,
)
def test_what_is_no_program_is_refused(kit: SimpleNamespace, change: dict[str, Any]) -> None:
    document = json.loads(kit.program("relu").to_json()) | change
    with pytest.raises(ProtocolError, match="the plan cannot be read"):
        Program.from_json(json.dumps(document))


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"5", b"{}", b"null", b'{"version": 1}'])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="the plan cannot be read"):
        Program.from_message(Message(Kind.PLAN, 0, 0, (np.frombuffer(data, np.uint8),)))


def test_costs_that_were_worked_out_by_hand() -> None:
    """Two channels of 4x4, max pooling of 2x2: 16 rows' maxima, then 8, then 8 ReLUs; three outputs."""
    pool = Window((2, 2), (2, 2), (0, 0))
    layer = Layer(
        "a", (Term(INPUT, Window((3, 3), (1, 1), (1, 1))),), "a.out", (2, 4, 4), weight_bits=12, comparison_bits=15, pool=pool, pool_bits=16
    )
    head = Layer("head", (Term("a.out", Window((2, 2), (1, 1), (0, 0))),), "result", (3, 1, 1), weight_bits=12, last=True)
    program = Program(32, 10, (1, 4, 4), (layer, head))
    assert list(comparisons(layer)) == [Comparison(16, 16, "max"), Comparison(8, 16, "max"), Comparison(8, 15, "relu")]
    costs = program.costs()
    assert costs.comparisons == 32 and costs.exchanges == 4
    assert costs.multiplications == 2 * 9 * 16 + 3 * 8
    # 16 pixels; 32 values of 20 bits; signs of 2 + 1 + 1 bytes each way; maxima of 20 bits each way; ReLUs; outputs; digests.
    assert costs.online_bytes == 64 + 80 + 2 * 4 + 2 * (40 + 20) + 32 + 12 + 3 * 16
    # Padded to 64 comparisons: 8, 8 and 7 levels of 16 bytes, two leaf words and a plane of flags.
    assert costs.common_key_bytes == 64 * (2 * (8 * 16 + 32 + 1) + 7 * 16 + 32 + 1)
    assert costs.correction_bytes == 24 * (3 * 4 + 2) + 8 * (5 * 4 + 2) + 4 * (32 + 3)
    assert costs.key_bytes == costs.common_key_bytes + costs.correction_bytes
    assert costs.setup_bytes == 4 * (2 * 9 + 3 * 8)


def test_stages_have_numbers_of_their_own(kit: SimpleNamespace) -> None:
    program = kit.program("max 3, padded")
    assert comparison_index(program) == [(0, number) for number in range(5)]
    numbers = [stage_number(index) for index in range(300)] + [stage_number(index, number) for index in range(300) for number in range(8)]
    assert len(set(numbers)) == len(numbers)


def test_shapes_of_wires_and_weights(kit: SimpleNamespace) -> None:
    program = kit.program("residual")
    assert program.shapes == {"input": (2, 6, 6), "a.out": (4, 6, 6), "b.out": (4, 6, 6), "c.out": (5, 3, 3), "result": (3, 1, 1)}
    layer = program.layers[1]
    assert [program.weight_shape(term, layer) for term in layer.terms] == [(4, 36), (0, 0)]
    assert pooled_shape(kit.program("max 3, padded").layers[0]) == (4, 4, 3)


def test_the_design_s_numbers_for_resnet18_at_224() -> None:
    """Comparisons of 17 bits, of 18 for differences, 12 fraction bits of weights, a 32-bit ring; nothing is computed."""
    model = build_model(ModelSettings(name="resnet18", pooling="max"), classes=3, channels=3, image_size=224, seed=0)

    def layer(real: RealLayer) -> Layer:
        terms = tuple(Term(term.source, term.window, term.factor) for term in real.terms)
        return Layer(real.name, terms, real.output, real.shape, 12, real.sum_window, 17, real.pool, 18, real.last)

    steps = tuple(step if isinstance(step, Local) else layer(step) for step in read_network(model, (3, 224, 224)).steps)
    costs = Program(32, 10, (3, 224, 224), steps).costs()
    assert costs.comparisons == 2_910_208
    assert 1.80e9 < costs.multiplications < 1.83e9
    assert costs.exchanges <= 25
    assert costs.online_bytes <= 30e6
    assert costs.key_bytes <= 0.7e9
