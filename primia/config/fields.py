"""Settings as text: how the value of one field is read from an ``.ini`` file, written back and described.

A field is named ``section.key`` everywhere. Its form comes from the JSON schema of its section, so the
reader's errors, the written file and the reference page cannot disagree with the typed settings.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from primia.config.settings import Section, Settings

SECTIONS: Mapping[str, type[Section]] = {name: type(section) for name, section in Settings()}

SPACE = "search.space"
"""The one field that is no key: it is given as settings by their whole names, beside the keys of its section."""

_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "yes or no", "array": "names, comma-separated"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
QUOTED = r'"(?:[^"]|"")*"'
"""A pattern of what stands in double quotes, a double quote within being written twice."""

_VALUE = re.compile(rf"(?:{QUOTED}|(?!(?:^|\s)[#;]).)*")
_ITEM = re.compile(rf"\s*({QUOTED}|[^,]*?)\s*(?:,|$)")


@dataclass(frozen=True)
class Form:
    """How one field is written: its JSON type, what is allowed, its choices and whether it may be empty."""

    kind: str
    allowed: str
    choices: tuple[object, ...] = ()
    optional: bool = False


def keys() -> list[str]:
    """All ``section.key`` in the order of the settings."""
    return [key for section in SECTIONS for key in keys_of(section)]


def keys_of(section: str) -> list[str]:
    """The ``section.key`` of one section."""
    return [key for name in SECTIONS[section].model_fields if (key := f"{section}.{name}") != SPACE]


def value_of(settings: Settings, key: str) -> object:
    """The value of ``section.key``."""
    value: object = operator.attrgetter(key)(settings)
    return value


@cache
def form_of(key: str) -> Form:
    """The form of ``section.key``."""
    section, name = key.split(".")
    schema = SECTIONS[section].model_json_schema()["properties"][name]
    variants = schema.get("anyOf", [schema])
    form = _form(variants[0])
    return Form(form.kind, f"{form.allowed}, or empty", form.choices, optional=True) if len(variants) > 1 else form


def _form(schema: Mapping[str, object]) -> Form:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return Form("enum", f"one of {', '.join(map(str, choices))}", tuple(choices))
    kind = str(schema["type"])
    if kind == "string":
        text = str(schema.get("format", "text"))
        return Form("path", "a path") if text == "path" else Form(kind, text)
    bounds = [f"{sign} {_number(schema[bound])}" for bound, sign in _BOUNDS.items() if bound in schema]
    return Form(kind, " ".join([_KINDS[kind], " and ".join(bounds)]).strip())


def _number(value: object) -> str:
    if value == 2**63:
        return "2^63"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def uncomment(text: str) -> str:
    """The right-hand side of an ``.ini`` line without its comment, which begins with ``#`` or ``;`` after white space."""
    found = _VALUE.match(text.strip())
    return found[0].strip() if found else ""


def parse(text: str, key: str) -> object:
    """Text to what the section's model validates; the model itself turns text into numbers and truth values.

    What stands in double quotes is taken as it is, a double quote within being written twice.
    """
    form = form_of(key)
    if form.kind == "array":
        return [unquoted(item) for item in items(text)]
    text = unquoted(text)
    if form.kind == "path" and text.startswith("~/"):
        return Path(text).expanduser()
    return next((choice for choice in form.choices if str(choice) == text), text)


def read(text: str, key: str) -> object:
    """The value that ``text`` gives ``section.key``.

    Raises:
        ValueError: it is not allowed there.
    """
    try:
        return _adapter(key).validate_python(parse(text, key))
    except ValidationError:
        raise ValueError(f"{text or 'an empty value'} is not allowed: {form_of(key).allowed}") from None


@cache
def _adapter(key: str) -> TypeAdapter[object]:
    section, name = key.split(".")
    return TypeAdapter(SECTIONS[section].model_fields[name].rebuild_annotation(), config=ConfigDict(allow_inf_nan=False))


def render(value: object) -> str:
    """A value as it is written in an ``.ini`` file; :func:`uncomment` and :func:`parse` read it back."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(_quoted(str(item)) if {",", '"'} & set(str(item)) else render(item) for item in value)
    text = "" if value is None else str(value)
    return text if text == unquoted(uncomment(text)) else _quoted(text)


def items(text: str) -> Iterator[str]:
    """The comma-separated parts of ``text``; a comma in double quotes separates nothing."""
    end = 0
    while found := _ITEM.match(text, end):
        yield found[1]
        if found.end() == len(text) and not found[0].endswith(","):
            return
        end = found.end()


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def unquoted(text: str) -> str:
    """What stands in double quotes where the whole text does, else the text."""
    return text[1:-1].replace('""', '"') if re.fullmatch(QUOTED, text) else text
