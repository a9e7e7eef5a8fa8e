"""JSON from strangers: bounded in size and depth, numbers finite, fields of their types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from primia.untrusted.files import DOCUMENT_LIMIT, Unusable, printable, read_file

NESTING_LIMIT = 40
NUMBER_LIMIT = 400
"""Characters of the longest number that is read: Python takes quadratic time to turn digits into an integer."""

_PYTHON = re.compile(r" or instance of \w+|^Value error, ")
"""What pydantic says to programmers."""

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


def parse_json(data: bytes | str, *, finite: bool = True) -> Any:
    """The value that JSON text stands for; ``finite``: NaN and infinities are refused.

    Raises:
        Unusable: it is no JSON, nested too deep, or holds a number that is not allowed.
    """
    text = data if isinstance(data, str) else _text(data)
    constant = _refuse if finite else float
    try:
        value = json.loads(text, parse_constant=constant, parse_float=_finite if finite else float, parse_int=_integer)
    except RecursionError:
        raise Unusable("nested too deep") from None
    except Unusable:
        raise
    except ValueError as error:
        raise Unusable(printable(error)) from None
    _check_nesting(value)
    return value


def parse_object(data: bytes | str, *, finite: bool = True) -> dict[str, Any]:
    """As :func:`parse_json`, of a JSON object."""
    value = parse_json(data, finite=finite)
    if not isinstance(value, dict):
        raise Unusable("it is no JSON object")
    return value


def read_object(path: Path, limit: int = DOCUMENT_LIMIT, *, finite: bool = True) -> dict[str, Any]:
    """The object in a JSON file; errors as :func:`~primia.untrusted.files.read_file` and :func:`parse_json`."""
    return parse_object(read_file(path, limit), finite=finite)


def validated(kind: type[Model] | TypeAdapter[T], value: object) -> Any:
    """``value`` as the model says; :class:`Unusable` with the first field that does not fit."""
    try:
        return kind.validate_python(value) if isinstance(kind, TypeAdapter) else kind.model_validate(value)
    except ValidationError as error:
        raise Unusable(fault(error)) from None
    except RecursionError:
        raise Unusable("nested too deep") from None


def fault(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    words = _PYTHON.sub("", first["msg"])
    return printable(f"{'.'.join(map(str, first['loc'])) or 'document'}: {words}")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unusable(f"byte {error.start} is not UTF-8 text") from None


def _refuse(name: str) -> NoReturn:
    raise Unusable(f"{name} is no number that is allowed here")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if abs(number) < float("inf") else _refuse(printable(digits, 20))


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= NUMBER_LIMIT else _refuse(printable(digits, 20))


def _check_nesting(value: object) -> None:
    level, depth = [value], 0
    while level := [inner for each in level for inner in _inside(each)]:
        depth += 1
        if depth > NESTING_LIMIT:
            raise Unusable(f"nested more than {NESTING_LIMIT} levels deep")


def _inside(value: object) -> list[object]:
    """Containers directly in a container."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, dict | list)]
