"""The text form of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from primia.config.fields import form_of, keys, keys_of, parse, read, render, uncomment, value_of
from primia.config.settings import Settings


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5", "5"),
        ("5   # five", "5"),
        ("5\t; five", "5"),
        ("# nothing", ""),
        ("a#b;c", "a#b;c"),
        ('"ward #2"', "ward #2"),
        ('"ward #2"  # the second', "ward #2"),
        ('"say ""yes"""', 'say "yes"'),
        ('" x "', " x "),
        ('"a" b', '"a" b'),
        ('5" disk # old', '5" disk'),
    ],
)
def test_comments_and_quotes(written: str, value: str) -> None:
    assert parse(uncomment(written), "run.site") == value


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("a", ["a"]),
        (" a ,b c,d # e", ["a", "b c", "d"]),
        ('"a, b", c', ["a, b", "c"]),
        ('"a #1", "b", c"d # e', ["a #1", "b", 'c"d']),
        ("a,,b", ["a", "", "b"]),
        ("a,", ["a", ""]),
        ('"a" b, c', ['"a" b', "c"]),
    ],
)
def test_lists(written: str, values: list[str]) -> None:
    assert parse(uncomment(written), "data.classes") == values


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("training.optimizer", "one of sgd, adam, adamw"),
        ("data.channels", "one of 1, 3"),
        ("training.batch_size", "a whole number >= 1 and <= 1,000,000"),
        ("training.momentum", "a number >= 0 and < 1"),
        ("training.end_learning_rate", "a number > 0 and <= 1e+30, or empty"),
        ("training.class_weights", "yes or no"),
        ("data.path", "a path, or empty"),
        ("data.classes", "names, comma-separated"),
        ("run.site", "text"),
        ("model.pretrained", "no, imagenet or a file"),
        ("run.seed", "a whole number >= 0 and < 2^63"),
    ],
)
def test_what_is_allowed_in_words(key: str, allowed: str) -> None:
    assert form_of(key).allowed == allowed


def test_every_key_has_a_form_and_a_value() -> None:
    settings = Settings()
    for key in keys():
        assert form_of(key).allowed
        value_of(settings, key)


def test_parse_makes_what_the_model_cannot_make_from_text() -> None:
    assert parse("3", "data.channels") == 3
    assert parse("a , b", "data.classes") == ["a", "b"]
    assert parse("~/scans", "data.path") == Path.home() / "scans"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (False, "no"), (None, ""), (("a", "b"), "a, b"), (1e-3, "0.001"), ("a #b", '"a #b"'), (Path("x y"), "x y")],
)
def test_render(value: object, text: str) -> None:
    assert render(value) == text


@pytest.mark.parametrize("items", [("a",), ("a, b", "c"), ('"x', 'y"'), ("a #1", " b"), ('""', "'")])
def test_a_rendered_list_reads_back(items: tuple[str, ...]) -> None:
    assert parse(uncomment(render(items)), "data.classes") == list(items)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("8", "training.batch_size", 8),
        ("1e-3", "training.end_learning_rate", 1e-3),
        ("no", "training.class_weights", False),
        ("3", "data.channels", 3),
        ('"a, b"', "run.site", "a, b"),
    ],
)
def test_read_gives_the_typed_value(text: str, key: str, value: object) -> None:
    assert read(text, key) == value
    assert type(read(text, key)) is type(value)


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("lamb", "training.optimizer", "lamb is not allowed: one of sgd, adam, adamw"),
        ("0", "training.learning_rate", "0 is not allowed: a number > 0"),
        ("inf", "training.learning_rate", "inf is not allowed: a number > 0"),
        ("", "training.learning_rate", "an empty value is not allowed: a number > 0"),
        ("1.5", "training.batch_size", "1.5 is not allowed: a whole number >= 1 and <= 1,000,000"),
    ],
)
def test_what_is_not_allowed_cannot_be_read(text: str, key: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(text, key)


def test_the_space_is_no_key() -> None:
    assert "search.space" not in keys()
    assert keys_of("search")[0] == "search.algorithm"
