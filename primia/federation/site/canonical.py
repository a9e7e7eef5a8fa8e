"""A driver's arguments as plain data of the site's own: typed, bounded, and read once.

What arrives was made by a stranger: an object of another class can answer each question as it likes, and an iterator gives other names each
time. So nothing that arrives is asked anything. Only values of exactly the classes that a call's annotations name are taken, and they are
made again from their fields; settings are validated again. Vectors alone are not copied: they are large, and compared in kind.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints
from unicodedata import category

import numpy as np
from pydantic import BaseModel, ValidationError

from primia.errors import ProtocolError
from primia.secagg.identity import PublicIdentity

LONGEST_TEXT = 1_000
LONGEST_PATH = 4_096
LONGEST_DOCUMENT = 10_000
LONGEST_BYTES = 2**20
MOST_ITEMS = 100_000
LARGEST_INTEGER = 2**63

Copy = Callable[[Any], Any]

_OTHER_LENGTHS = {(PublicIdentity, "document"): LONGEST_DOCUMENT}
"""Letters of fields that hold whole documents."""


class Unreadable(ProtocolError):
    """An argument that is not what its call declares; says where by the names of declared fields alone, and quotes nothing."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{where or 'an argument'} is not {what}; start driver and sites with the same version")
        self.what = what
        self.where = where

    def within(self, name: str) -> Unreadable:
        """The same, seen from the value that has it as its field ``name``."""
        return Unreadable(self.what, f"{name}.{self.where}" if self.where else name)


def canonical_arguments(call: Callable[..., object], arguments: tuple[object, ...], named: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a call's arguments, by name, as its annotations say.

    Raises:
        Unreadable: an argument is of another class, too long or too large.
    """
    try:
        given = inspect.signature(call).bind(*arguments, **named).arguments
    except TypeError:
        raise Unreadable("one of as many as the call has", "the list of arguments") from None
    copies = _copies(call)
    return {name: _inner(name, copies[name], value) for name, value in given.items()}


def canonical(hint: Any, value: object) -> Any:
    """A copy of one value of the type that ``hint`` stands for; errors as :func:`canonical_arguments`."""
    return _copy_of(hint)(value)


@cache
def _copies(call: Callable[..., object]) -> dict[str, Copy]:
    return {name: _copy_of(hint) for name, hint in get_type_hints(call).items() if name != "return"}


@cache
def _copy_of(hint: Any) -> Copy:
    """What copies values of a type; a type that it does not know has no copy, so that a new message is covered or refused."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _copy_of(parts[0])
    if origin in (Union, types.UnionType):
        return partial(_one_of, tuple(map(_copy_of, parts)))
    if origin is Literal:
        return partial(_literal, parts)
    if origin is Sequence:
        return partial(_sequence, (tuple, list), _copy_of(parts[0]))
    if origin is tuple and parts[1:] == (...,):
        return partial(_sequence, (tuple,), _copy_of(parts[0]))
    if origin in (Mapping, dict):
        return partial(_mapping, _copy_of(parts[0]), _copy_of(parts[1]))
    if origin is np.ndarray:
        return partial(_vector, np.dtype(get_args(parts[1])[0]))
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return partial(
            _settings, hint, {name: _copy_of(field) for name, field in get_type_hints(hint).items() if name in hint.model_fields}
        )
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(_record, hint, _record_copies(hint))
    return partial(_unknown, hint)


def _record_copies(kind: type) -> dict[str, Copy]:
    hints = get_type_hints(kind)
    longer = {name: partial(_text, longest) for (of, name), longest in _OTHER_LENGTHS.items() if of is kind}
    return {field.name: longer.get(field.name) or _copy_of(hints[field.name]) for field in fields(kind)}


def _fields_of(kind: type, copies: Mapping[str, Copy], value: object) -> dict[str, Any]:
    """Copies of the fields of a value of exactly this class, read where they are stored: neither properties nor methods are called."""
    if type(value) is not kind:
        raise Unreadable(_words(kind))
    stored = getattr(value, "__dict__", None)
    if type(stored) is not dict or set(map(type, stored)) != {str} or stored.keys() != copies.keys():
        raise Unreadable(f"{_words(kind)} with its fields")
    return {name: _inner(name, copy, stored[name]) for name, copy in copies.items()}


def _record(kind: type, copies: Mapping[str, Copy], value: object) -> Any:
    return kind(**_fields_of(kind, copies, value))


def _settings(kind: type[BaseModel], copies: Mapping[str, Copy], value: object) -> Any:
    """Validated again: what was changed since it was first validated need not be valid."""
    try:
        return kind.model_validate(_fields_of(kind, copies, value))
    except ValidationError:
        raise Unreadable(f"valid as {_words(kind)}") from None


def _one_of(copies: tuple[Copy, ...], value: object) -> Any:
    faults = []
    for copy in copies:
        try:
            return copy(value)
        except Unreadable as fault:
            faults.append(fault)
    raise max(faults, key=lambda fault: len(fault.where))


def _literal(allowed: tuple[object, ...], value: object) -> Any:
    for each in allowed:
        if type(value) is type(each) and value == each:
            return each
    raise Unreadable("one of its values")


def _sequence(kinds: tuple[type, ...], copy: Copy, value: object) -> tuple[Any, ...]:
    if type(value) not in kinds or len(value) > MOST_ITEMS:  # type: ignore[arg-type]
        raise Unreadable(f"a {kinds[0].__name__} of at most {MOST_ITEMS} items")
    return tuple([copy(each) for each in value])  # type: ignore[attr-defined]


def _mapping(key: Copy, copy: Copy, value: object) -> dict[Any, Any]:
    if type(value) is not dict or len(value) > MOST_ITEMS:
        raise Unreadable(f"a dict of at most {MOST_ITEMS} items")
    return {key(name): copy(each) for name, each in value.items()}


def _vector(dtype: np.dtype[Any], value: object) -> Any:
    if type(value) is not np.ndarray or value.dtype != dtype or value.ndim != 1 or not value.flags.c_contiguous:
        raise Unreadable(f"a contiguous vector of {dtype.name}")
    return value


def _text(longest: int, value: object) -> str:
    if type(value) is not str or len(value) > longest or not (value.isprintable() or all(map(_is_shown, value))):
        raise Unreadable(f"one line of text of at most {longest} letters")
    return value


def _is_shown(letter: str) -> bool:
    """Whether a letter only shows, the spaces of other scripts included."""
    return letter.isprintable() or category(letter) == "Zs"


def _bytes(value: object) -> bytes:
    if type(value) is not bytes or len(value) > LONGEST_BYTES:
        raise Unreadable(f"at most {LONGEST_BYTES} bytes")
    return value


def _integer(value: object) -> int:
    if type(value) is not int or not -LARGEST_INTEGER < value < LARGEST_INTEGER:
        raise Unreadable("an integer of at most 63 bits")
    return value


def _float(value: object) -> float:
    if type(value) is not float or not isfinite(value):
        raise Unreadable("a finite float")
    return value + 0.0  # -0.0 is 0.0, so that both are the same terms and the same work


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise Unreadable("a truth value")
    return value


def _none(value: object) -> None:
    if value is not None:
        raise Unreadable("None")


def _path(value: object) -> Path:
    if type(value) is not type(Path()):
        raise Unreadable("a path")
    text = str(value)
    if type(text) is not str or len(text) > LONGEST_PATH or "\0" in text:
        raise Unreadable(f"a path of at most {LONGEST_PATH} letters")
    return Path(text)


def _unknown(hint: object, value: object) -> NoReturn:
    raise Unreadable("of a type that a site reads")


def _inner(name: str, copy: Copy, value: object) -> Any:
    try:
        return copy(value)
    except Unreadable as fault:
        raise fault.within(name) from None


def _words(kind: type) -> str:
    return f"a {kind.__name__}"


_PLAIN: dict[Any, Copy] = {
    str: partial(_text, LONGEST_TEXT),
    bytes: _bytes,
    int: _integer,
    float: _float,
    bool: _bool,
    type(None): _none,
    Path: _path,
}
