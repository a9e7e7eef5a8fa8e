"""Each guarantee of the threat model names tests, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
GUARANTEES = re.findall(r"^\| (G\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
FINDINGS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


@pytest.mark.parametrize("row", GUARANTEES, ids=[row[0] for row in GUARANTEES])
def test_a_guarantee_says_against_whom_and_has_tests(row: tuple[str, ...]) -> None:
    _, sentence, against, assuming, tests = row
    assert sentence.endswith(".") and against.strip(" -") and assuming
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert named and tests.count("`") == 2 * len(named), "a cell of test ids and nothing else"
    for path, name in named:
        assert name in names_in(path), f"{path} has no {name}"


def test_every_finding_leads_to_a_guarantee() -> None:
    known = {row[0] for row in GUARANTEES}
    assert [int(number) for number, _, _ in FINDINGS] == list(range(1, 16)) and len(known) == len(GUARANTEES) == 18
    for number, _, guarantees in FINDINGS[:-1]:
        names = set(re.findall(r"G\d+", guarantees))
        assert names and names <= known, number
    assert {name for _, _, guarantees in FINDINGS for name in re.findall(r"G\d+", guarantees)} == known
