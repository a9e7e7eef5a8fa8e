from __future__ import annotations

import pytest

from primia.report import format as fmt


@pytest.mark.parametrize("write", [fmt.score, fmt.percent, fmt.loss, fmt.rate, fmt.count, fmt.size, fmt.duration])
def test_none_is_a_dash(write):
    assert write(None) == "–"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (fmt.score(-0.0456), "-0.046"),
        (fmt.percent(0.8765), "87.6 %"),
        (fmt.loss(0.12344), "0.1234"),
        (fmt.rate(0.00012345), "0.000123"),
        (fmt.count(1234567), "1,234,567"),
        (fmt.size(999), "999 B"),
        (fmt.size(44_700_000), "44.7 MB"),
        (fmt.size(2_500_000_000), "2.5 GB"),
        (fmt.duration(59.94), "59.9 s"),
        (fmt.duration(65.4), "1 min 05 s"),
        (fmt.duration(7380), "2 h 03 min"),
        (fmt.plural(1, "site"), "1 site"),
        (fmt.plural(1200, "site"), "1,200 sites"),
        (fmt.listing(["a"]), "a"),
        (fmt.listing(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_as_a_person_writes_them(written, expected):
    assert written == expected
