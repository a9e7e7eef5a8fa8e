"""Texts of strangers where they are shown: on a terminal or a page as the signs that they are, in a spreadsheet never as a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_FORMULA = tuple("=+-@＝＋－＠")
"""What begins a formula in spreadsheets, behind white space too, and in some as the wide signs of East Asian scripts."""

_MARK = "'"
_FIRST = ("\t", "\r", "\n", _MARK)


def visible(text: str) -> str:
    """``text`` on one line, each sign that steers what shows it (escapes, line breaks, turns of direction) written as its code."""
    return text if text.isprintable() else "".join(map(_sign, text))


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table whose texts stay texts in a spreadsheet: each is a :func:`cell`.

    All texts are quoted, since a spreadsheet may take semicolons for commas, and what follows one for a cell of its own.
    """
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(map(cell, columns))
    for row in rows:
        values = (row[name] for name in columns)
        writer.writerow(cell(value) if isinstance(value, str) else value for value in values)


def cell(text: str) -> str:
    """``text`` as a cell of a CSV file that no spreadsheet calculates; :func:`from_cell` gives it back exactly.

    What would begin a formula gets an apostrophe in front, and so does what has one already, so that no two texts share a cell. Numbers
    are no texts: they stay as they are.
    """
    return _MARK + text if text.startswith(_FIRST) or text.lstrip().startswith(_FORMULA) else text


def from_cell(text: str) -> str:
    """The text that :func:`cell` was given."""
    return text.removeprefix(_MARK)


def _sign(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()
