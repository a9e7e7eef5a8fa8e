"""What strangers wrote, as it is shown: nothing in it acts, and a cell is read back as it was."""

from __future__ import annotations

import pytest

from primia.untrusted.shown import cell, from_cell, visible

TEXTS = [
    "a",
    "",
    "[/x]",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    " =1",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "'",
    "'=1",
    "''a",
    "\x1b[31m",
    "\u202eabc",
    "a;=1",
]


@pytest.mark.parametrize("text", ["\x1b[31mred", "\u202eabc", "a\nb", "a\rb", "\x9b2J", "\udcff", "\u2028", "\x00", "\x7f"])
def test_no_sign_that_steers_is_left(text: str) -> None:
    assert visible(text).isprintable() and visible(text) != text


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert visible("[/x] Müller 肺 😀 $x$") == "[/x] Müller 肺 😀 $x$"
    assert visible("\x1b[31m\u202e") == "\\x1b[31m\\u202e"


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_is_no_formula_and_is_read_back_as_it_was(text: str) -> None:
    assert not cell(text).lstrip().startswith(tuple("=+-@＝＋－＠")) and not cell(text).startswith(("\t", "\r", "\n"))
    assert from_cell(cell(text)) == text


def test_no_two_texts_share_a_cell() -> None:
    assert len({cell(text) for text in TEXTS}) == len(TEXTS)
