"""Small programs with random weights, and a way to run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor, nn

from primia.config.settings import ModelSettings
from primia.models.registry import build_model
from primia.mpc.compiler import Compiled, Precision, compile_network
from primia.mpc.data_owner import DataOwner, Result
from primia.mpc.dealer import Dealer
from primia.mpc.dpf import backend
from primia.mpc.keys import BatchKeys
from primia.mpc.linear import Weights
from primia.mpc.local import run_together
from primia.mpc.messages import Message, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.oracle import Oracle, batch_rounding
from primia.mpc.program import INPUT, Layer, Local, Program, Term
from primia.mpc.ring import Ring, Window, encode
from primia.mpc.workers import Workers

SAME = Window((3, 3), (1, 1), (1, 1))
BATCH = 0xABCDEF


@dataclass
class Parties:
    """Three parties after setup, and everything that they said."""

    program: Program
    weights: Weights
    biases: list[Ring]
    aes: str = "auto"
    said: list[tuple[Role, Role, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        workers, aes = Workers(1), backend(self.aes)  # type: ignore[arg-type]
        self.dealer, self.data_owner = Dealer(workers, aes), DataOwner(workers, aes)
        self.model_owner = ModelOwner(self.program, self.weights, self.biases, workers, aes)
        parties = {Role.DEALER: self.dealer, Role.MODEL_OWNER: self.model_owner, Role.DATA_OWNER: self.data_owner}
        run_together({role: party.setup() for role, party in parties.items()}, self._hear)

    def preprocess(self, images: int, batch: int = BATCH) -> dict[Role, list[Message]]:
        kept: dict[Role, list[Message]] = {Role.MODEL_OWNER: [], Role.DATA_OWNER: []}
        run_together(
            {
                Role.DEALER: self.dealer.preprocess(batch, images),
                Role.MODEL_OWNER: self.model_owner.preprocess(batch, images, kept[Role.MODEL_OWNER].append),
                Role.DATA_OWNER: self.data_owner.preprocess(batch, images, kept[Role.DATA_OWNER].append),
            },
            self._hear,
        )
        return kept

    def online(self, images: Ring, kept: dict[Role, list[Message]], batch: int = BATCH) -> Result:
        keys = {role: BatchKeys(batch, iter(records)) for role, records in kept.items()}
        results = run_together(
            {
                Role.MODEL_OWNER: self.model_owner.infer(images.shape[1], keys[Role.MODEL_OWNER]),
                Role.DATA_OWNER: self.data_owner.infer(images, keys[Role.DATA_OWNER]),
            },
            self._hear,
        )
        return results[Role.DATA_OWNER]  # type: ignore[no-any-return]

    def oracle(self, images: Ring, kept: dict[Role, list[Message]]) -> Result:
        seeds = (kept[role][0].arrays[0].tobytes() for role in (Role.MODEL_OWNER, Role.DATA_OWNER))
        return Oracle(self.program, self.weights, self.biases, Workers(1)).run(images, batch_rounding(self.program, *seeds))

    def _hear(self, sender: Role, to: Role, message: Message) -> None:
        self.said.append((sender, to, message))


def assert_uniform(data: NDArray[np.uint8], what: str) -> None:
    """Chi-square on bytes; random bytes fail with a probability of about 1e-9."""
    assert data.size >= 256 * 8, f"{what}: {data.size} bytes are too few to judge"
    counts, expected = np.bincount(data.view(np.uint8).ravel(), minlength=256), data.size / 256
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 255) > 1e-9, what


def same_results(first: Result, second: Result) -> bool:
    return np.array_equal(first.outputs, second.outputs) and first.out_of_range == second.out_of_range


def program_of(steps: list[Layer | Local], shape: tuple[int, int, int], bits: int = 32) -> Program:
    return Program(bits, 10, shape, tuple(steps))


def random_weights(program: Program, seed: int = 0, size: float = 0.3) -> tuple[Weights, list[Ring]]:
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for layer in program.layers:
        shapes = [program.weight_shape(term, layer) for term in layer.terms]
        weights.append([encode(rng.normal(0, size, shape), layer.weight_bits, program.bits) for shape in shapes])
        biases.append(encode(rng.normal(0, size, layer.shape[0]), layer.weight_bits + program.fraction_bits, program.bits))
    return weights, biases


def relu_layer(name: str, terms: list[Term], shape: tuple[int, int, int], **options: Any) -> Layer:
    options = {"weight_bits": 12, "comparison_bits": 15, "pool_bits": 16} | options
    return Layer(name, tuple(terms), f"{name}.out", shape, **options)


def last_layer(source: str, window: Window, shape: tuple[int, int, int]) -> Layer:
    return Layer("head", (Term(source, window),), "result", shape, weight_bits=12, last=True)


def encoded_images(program: Program, images: int, seed: int = 1) -> Ring:
    channels, height, width = program.input_shape
    values: NDArray[np.float64] = np.random.default_rng(seed).normal(0, 1, (channels, images, height, width))
    return encode(values, program.fraction_bits, program.bits)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "relu": lambda: program_of(
        [relu_layer("a", [Term(INPUT, SAME)], (4, 6, 6)), last_layer("a.out", Window((6, 6), (1, 1), (0, 0)), (3, 1, 1))], (2, 6, 6)
    ),
    "stride": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, Window((5, 3), (2, 3), (2, 0)))], (4, 4, 3)),
            last_layer("a.out", Window((4, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 7, 9),
    ),
    "max 2": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 6, 8), pool=Window((2, 2), (2, 2), (0, 0))),
            last_layer("a.out", Window((3, 4), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 8),
    ),
    "max 3, padded": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 7, 6), pool=Window((3, 3), (2, 2), (1, 1))),
            last_layer("a.out", Window((4, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 7, 6),
    ),
    "average before relu": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 3, 3), sum_window=Window((2, 2), (2, 2), (0, 0))),
            last_layer("a.out", Window((3, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 6),
    ),
    "sums of wires": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 6, 6)),
            Local("sum", ("a.out",), "summed", (4, 3, 3), Window((3, 3), (2, 2), (1, 1))),
            last_layer("summed", Window((3, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 6),
    ),
    "residual": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 6, 6)),
            relu_layer("b", [Term("a.out", SAME), Term("a.out", None)], (4, 6, 6)),
            relu_layer("c", [Term("b.out", Window((3, 3), (2, 2), (1, 1))), Term("a.out", Window((1, 1), (2, 2), (0, 0)))], (5, 3, 3)),
            last_layer("c.out", Window((3, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 6),
    ),
    "u-net's steps": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 6, 6)),
            Local("sum", ("a.out",), "down", (4, 3, 3), Window((2, 2), (2, 2), (0, 0))),
            relu_layer("b", [Term("down", SAME)], (4, 3, 3)),
            Local("repeat", ("b.out",), "up", (4, 6, 6), factor=(2, 2)),
            Local("spread", ("b.out",), "apart", (4, 5, 5), factor=(2, 2)),
            relu_layer("c", [Term("apart", Window((2, 2), (1, 1), (1, 1)))], (2, 6, 6)),
            Local("concatenate", ("a.out", "up", "c.out"), "all", (10, 6, 6)),
            last_layer("all", Window((1, 1), (1, 1), (0, 0)), (1, 6, 6)),
        ],
        (2, 6, 6),
    ),
    "28-bit ring": lambda: program_of(
        [
            relu_layer("a", [Term(INPUT, SAME)], (4, 6, 6), weight_bits=9, pool=Window((2, 2), (2, 2), (0, 0))),
            Layer("head", (Term("a.out", Window((3, 3), (1, 1), (0, 0))),), "result", (3, 1, 1), weight_bits=9, last=True),
        ],
        (2, 6, 6),
        bits=28,
    ),
    "44-bit ring": lambda: program_of(
        [
            relu_layer(
                "a", [Term(INPUT, SAME)], (4, 6, 6), weight_bits=16, comparison_bits=20, pool_bits=21, pool=Window((3, 3), (2, 2), (1, 1))
            ),
            last_layer("a.out", Window((3, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 6),
        bits=44,
    ),
    "64-bit ring": lambda: program_of(
        [
            relu_layer(
                "a", [Term(INPUT, SAME)], (4, 6, 6), weight_bits=20, comparison_bits=31, pool_bits=32, pool=Window((2, 2), (2, 2), (0, 0))
            ),
            last_layer("a.out", Window((3, 3), (1, 1), (0, 0)), (3, 1, 1)),
        ],
        (2, 6, 6),
        bits=64,
    ),
}


@cache
def shipped(name: str, pooling: str, size: int) -> tuple[nn.Module, Tensor, Compiled]:
    """A network of the registry with statistics that mean something, images for it, and what it compiles to."""
    settings, channels = ModelSettings(name=name, pooling=pooling), 1 if name == "convnet" else 3
    model = build_model(settings, classes=3, channels=channels, image_size=size, seed=0)
    images = torch.randn(24, channels, size, size, generator=torch.Generator().manual_seed(0))
    model.train()
    with torch.no_grad():
        for part in images.split(8):
            model(part)
    images = images[:4]
    return model.eval(), images, compile_network(model, (channels, size, size), images, Precision(), Workers(1))


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above: test modules cannot import them from here."""
    return SimpleNamespace(
        batch=BATCH,
        same=SAME,
        parties=lambda name, seed=0, size=0.3, aes="auto": Parties(
            PROGRAMS[name](), *random_weights(PROGRAMS[name](), seed, size), aes=aes
        ),
        parties_of=Parties,
        program=lambda name: PROGRAMS[name](),
        program_of=program_of,
        relu_layer=relu_layer,
        last_layer=last_layer,
        random_weights=random_weights,
        encoded_images=encoded_images,
        same_results=same_results,
        shipped=shipped,
        assert_uniform=assert_uniform,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program_name" in metafunc.fixturenames:
        metafunc.parametrize("program_name", PROGRAMS)
