"""Texts of strangers where they are shown: on a terminal or a page as the signs that they are, in a spreadsheet never as a formula."""

from __future__ import annotations

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What begins a formula in spreadsheets, in some also as the wide signs of East Asian scripts."""

_MARK = "'"


def visible(text: str) -> str:
    """``text`` on one line, each sign that steers what shows it (escapes, line breaks, turns of direction) written as its code."""
    return text if text.isprintable() else "".join(map(_sign, text))


def cell(text: str) -> str:
    """``text`` as a cell of a CSV file that no spreadsheet calculates; :func:`from_cell` gives it back exactly.

    What would begin a formula gets an apostrophe in front, and so does what has one already, so that no two texts share a cell. Numbers
    are no texts: they stay as they are.
    """
    return _MARK + text if text.startswith((*_FORMULA, _MARK)) else text


def from_cell(text: str) -> str:
    """The text that :func:`cell` was given."""
    return text.removeprefix(_MARK)


def _sign(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()
