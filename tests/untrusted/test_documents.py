from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from primia.untrusted.documents import NESTING_LIMIT, parse_json, read_object, validated
from primia.untrusted.files import Unusable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10**6, "nested too deep"),
        ("[" * (NESTING_LIMIT + 2) + "]" * (NESTING_LIMIT + 2), "levels deep"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": ' + "9" * 5000 + "}", "999"),
        ("", "Expecting value"),
        (b"\xff", "UTF-8"),
    ],
)
def test_what_is_no_plain_json_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        parse_json(text)


def test_an_object_is_read_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null]}')
    assert read_object(tmp_path / "a.json") == {"a": [1, 2.5, None]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(Unusable, match="no JSON object"):
        read_object(tmp_path / "a.json")


def test_the_first_field_that_does_not_fit_is_named() -> None:
    class Point(BaseModel):
        x: int

    assert validated(Point, {"x": 1}).x == 1
    with pytest.raises(Unusable, match=r"^x: Input should be a valid integer"):
        validated(Point, {"x": "\n"})
