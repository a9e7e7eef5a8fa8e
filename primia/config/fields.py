"""Settings as text: how the value of one field is read from an ``.ini`` file, written back and described.

A field is named ``section.key`` everywhere. Its form comes from the JSON schema of its section, so the
reader's errors, the written file and the reference page cannot disagree with the typed settings.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from primia.config.settings import Section, Settings

SECTIONS: Mapping[str, type[Section]] = {name: type(section) for name, section in Settings()}

_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "yes or no", "array": "names, comma-separated"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s*(?:[#;].*)?')
_COMMENT = re.compile(r"(?:^|\s)[#;]")


@dataclass(frozen=True)
class Form:
    """How one field is written: its JSON type, what is allowed, its choices and whether it may be empty."""

    kind: str
    allowed: str
    choices: tuple[object, ...] = ()
    optional: bool = False


def keys() -> list[str]:
    """All ``section.key`` in the order of the settings."""
    return [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields]


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
    return "2^63" if value == 2**63 else f"{value:g}"


def uncomment(text: str) -> str:
    """The value in the right-hand side of an ``.ini`` line.

    A comment begins with ``#`` or ``;`` after white space. A value in double quotes is taken as it stands, a
    double quote within it being written twice.
    """
    text = text.strip()
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1].replace('""', '"')
    return _COMMENT.split(text, maxsplit=1)[0].strip()


def parse(text: str, key: str) -> object:
    """Text to what the section's model validates; the model itself turns text into numbers and truth values."""
    form = form_of(key)
    if form.kind == "array":
        return [part.strip() for part in text.split(",")]
    if form.kind == "path" and text.startswith("~/"):
        return Path(text).expanduser()
    return next((choice for choice in form.choices if str(choice) == text), text)


def render(value: object) -> str:
    """A value as it is written in an ``.ini`` file; :func:`uncomment` and :func:`parse` read it back."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    if text != uncomment(text):
        return '"' + text.replace('"', '""') + '"'
    return text
