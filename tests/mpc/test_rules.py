"""Where randomness may come from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import primia

FOLDER = Path(primia.__file__).parent
SOURCES = sorted(path for name in ("mpc", "secagg") for path in (FOLDER / name).rglob("*.py"))
GENERATORS = ("random", "numpy.random", "torch.random", "torch.Generator", "torch.manual_seed", "torch.seed", "torch.default_generator")
TORCH_DRAWS = ("rand", "bernoulli", "multinomial", "normal", "poisson")
IN_PLACE = {f"{name}_" for name in ("random", "uniform", "normal", "bernoulli", "exponential", "geometric", "cauchy", "log_normal")}
PLACES = {"mpc/aes.py": "fresh_seed", "secagg/shamir.py": "_draw"}
SYSTEM = ("secrets", "os.urandom", "os.getrandom", "uuid", "random.SystemRandom")


def uses(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every dotted name in a module, spelled out through its imports."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([known.get(first, first), *rest]), node


def begins(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def violations(tree: ast.AST) -> set[str]:
    """Generators that are not cryptographic."""
    return {
        name
        for name, _ in uses(tree)
        if begins(name, GENERATORS) or name.startswith(tuple(f"torch.{draw}" for draw in TORCH_DRAWS)) or name.split(".")[-1] in IN_PLACE
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_generator_but_a_cryptographic_one(path: Path) -> None:
    assert not violations(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_systems_generator_is_asked_in_one_place_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    asked = [node for name, node in uses(tree) if begins(name, SYSTEM)]
    place = PLACES.get(f"{path.parent.name}/{path.name}")
    if place is None:
        assert not asked
        return
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == place)
    inside = set(ast.walk(function))
    assert any(node in inside for node in asked)
    assert all(node in inside or isinstance(node, ast.Import) for node in asked)


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import choice",
        "import numpy as np\nnp.random.default_rng(0)",
        "from numpy.random import default_rng",
        "from numpy import random as r\nr.bytes(3)",
        "import torch\ntorch.randn(3)",
        "import torch\ntorch.Generator()",
        "from torch import rand",
        "x.uniform_(0, 1)",
    ],
)
def test_the_rule_sees_what_it_forbids(source: str) -> None:
    assert violations(ast.parse(source))


def test_the_rule_sees_all_sources() -> None:
    assert {"aes.py", "dealer.py", "model_owner.py", "data_owner.py", "seeds.py"} < {path.name for path in SOURCES}
    assert not violations(ast.parse("import numpy as np\nfrom primia.mpc.oracle import random_rounding\nrandom_rounding(np.zeros(3))"))
