"""The grammar of the search space: the text of one searched setting to an expression.

An expression is a row of alternatives, ``... only if CONDITIONS else ... only if CONDITIONS else ...``; the first whose conditions hold
says where the value comes from: a domain to draw from, or another setting that it follows from. What is wrong is a
:class:`primia.errors.ConfigError` of one line that names the setting and its text.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from primia.config.fields import QUOTED, form_of, items, read, render
from primia.config.reader import unknown
from primia.errors import ConfigError
from primia.search.records import Value
from primia.search.space.domains import Choice, Domain, Number

Lookup = Callable[[str], object]
"""The value that a setting has so far, by ``section.key``."""

_NUMERIC = ("integer", "number")
_ARGUMENTS = {
    "uniform": ("LOW", "HIGH"),
    "loguniform": ("LOW", "HIGH"),
    "quniform": ("LOW", "HIGH", "STEP"),
    "randint": ("LOW", "HIGH", "STEP"),
}
_EXAMPLES = {
    "number": "loguniform(1e-5, 1e-2), uniform(0, 0.1), quniform(0, 90, 5), choice(0, 0.5), or 0.1 * another.setting",
    "integer": "randint(8, 64), randint(8, 64, 8), choice(16, 32), or 100 / another.setting",
    "boolean": "bool",
}
_ORDER: Mapping[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CALL = re.compile(r"(\w+)\s*\((.*)\)", re.DOTALL)
_MULTIPLE = re.compile(r"(\S+)\s*([/*])\s*(\S+)")
_CONDITION = re.compile(r"(\S+?)\s*(!=|<=|>=|<|>|=)\s*(.*)")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """One setting's value against others: ``=`` one of them, ``!=`` none of them, or in order with a single one."""

    key: str
    sign: str
    values: tuple[object, ...]

    def holds(self, look: Lookup) -> bool:
        """Whether it holds for the values so far; a setting without a value is in no order."""
        actual = look(self.key)
        if self.sign in ("=", "!="):
            return (actual in self.values) == (self.sign == "=")
        return actual is not None and _ORDER[self.sign](actual, self.values[0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, each a number or the name of a setting."""

    low: float | str
    high: float | str
    step: float | None
    log: bool
    integer: bool

    def domain(self, look: Lookup) -> Number:
        """The numbers, for the values so far."""
        low, high = (_number(bound, look) if isinstance(bound, str) else bound for bound in (self.low, self.high))
        if low > high:
            raise ValueError(f"its bounds {low:g} and {high:g} are the wrong way round{_where((self.low, self.high), look)}")
        if self.log and low <= 0:
            raise ValueError(f"loguniform needs bounds above 0, not {low:g}{_where((self.low,), look)}")
        return Number(low, high, log=self.log) if self.step is None else Number.stepped(low, high, self.step, self.integer)


@dataclass(frozen=True)
class Multiple:
    """What follows from another setting: a number times it, or divided by it; rounded up for whole numbers, which are at least 1."""

    number: float
    divides: bool
    key: str
    integer: bool

    def value(self, look: Lookup) -> Value:
        """The value, for the values so far."""
        other = _number(self.key, look)
        if self.divides and other == 0:
            raise ValueError(f"it is divided by {self.key} = 0; add: only if {self.key} > 0")
        exact = self.number / other if self.divides else self.number * other
        return max(1, math.ceil(exact - _ROUNDING)) if self.integer else exact


@dataclass(frozen=True)
class Alternative:
    """Where a value comes from, and when."""

    source: Choice | Range | Multiple
    conditions: tuple[Condition, ...]

    @property
    def keys(self) -> Iterator[str]:
        """The settings that it depends on."""
        yield from (condition.key for condition in self.conditions)
        match self.source:
            case Range(low, high):
                yield from (bound for bound in (low, high) if isinstance(bound, str))
            case Multiple():
                yield self.source.key


@dataclass(frozen=True)
class Expression:
    """One searched setting: its text, and the alternatives in their order."""

    key: str
    text: str
    alternatives: tuple[Alternative, ...]

    @property
    def keys(self) -> Iterator[str]:
        """The settings that it depends on."""
        return (key for alternative in self.alternatives for key in alternative.keys)

    @property
    def is_drawn(self) -> bool:
        """Whether any of its values are drawn rather than follow from others."""
        return not all(isinstance(each.source, Multiple) for each in self.alternatives)

    @property
    def is_finite(self) -> bool:
        """Whether it is drawn from finitely many values, or follows from others."""
        return not any(isinstance(each.source, Range) and each.source.step is None for each in self.alternatives)

    def place(self, look: Lookup) -> int | None:
        """The place of the alternative whose conditions hold; None where there is none, and the setting keeps its value."""
        holding = (place for place, each in enumerate(self.alternatives) if all(condition.holds(look) for condition in each.conditions))
        return next(holding, None)

    def resolve(self, place: int, look: Lookup) -> Domain | Value:
        """What an alternative is drawn from, or the value that follows from others."""
        source = self.alternatives[place].source
        try:
            match source:
                case Range():
                    return source.domain(look)
                case Multiple():
                    return source.value(look)
            return source
        except ValueError as error:
            raise ConfigError(f"[search] {self.key} = {self.text}: {error}") from None


def parse_expression(key: str, text: str) -> Expression:
    """Read what is written for one setting.

    Raises:
        ConfigError: it is malformed, or gives values that the setting does not allow.
    """
    try:
        return Expression(key, text, tuple(_alternatives(key, text)))
    except ValueError as error:
        raise ConfigError(f"[search] {key} = {text}: {error}") from None


def _alternatives(key: str, text: str) -> Iterator[Alternative]:
    parts = _split(text, "else")
    for number, part in enumerate(parts, start=1):
        source, *conditions = _split(part, "only if")
        if len(conditions) > 1 or (not conditions and number < len(parts)):
            raise ValueError("write it as: ... only if KEY = VALUE else ...")
        yield Alternative(_source(key, source), tuple(_condition(each) for text in conditions for each in _split(text, "and")))


def _split(text: str, word: str) -> list[str]:
    """The parts between a word, which counts neither in double quotes nor in parentheses."""
    mask = text
    for hidden in (QUOTED, r"\([^()]*\)"):
        mask = re.sub(hidden, lambda found: "_" * len(found[0]), mask)
    pattern = r"\s+".join(word.split())
    cuts = [found.span() for found in re.finditer(rf"(?<!\S){pattern}(?!\S)", mask)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def _source(key: str, text: str) -> Choice | Range | Multiple:
    kind = form_of(key).kind
    call = _CALL.fullmatch(text)
    if text == "bool" and kind == "boolean":
        return Choice((False, True))
    if call and call[1] == "choice":
        return _choice(key, call[2])
    if call and call[1] in _ARGUMENTS and kind == ("integer" if call[1] == "randint" else "number"):
        return _range(key, call[1], list(items(call[2])))
    multiple = _MULTIPLE.fullmatch(text)
    if not call and multiple and kind in _NUMERIC:
        return _multiple(multiple[1], multiple[2], multiple[3], kind == "integer")
    choices = form_of(key).choices
    example = f"choice({', '.join(map(str, choices))})" if choices else _EXAMPLES.get(kind, "choice(ONE, ANOTHER)")
    drawn = {"number": "number", "integer": "whole number", "boolean": "yes or no"}.get(kind, "text")
    raise ValueError(f"{f'{call[1]}(...)' if call else 'this'} draws no {drawn}; write for example {example}")


def _multiple(number: str, sign: str, key: str, integer: bool) -> Multiple:
    if _names_setting(number):
        factor = "NUMBER" if sign == "/" or _names_setting(key) else key
        raise ValueError(f"the number comes first; write {factor} * {number}")
    return Multiple(_literal(number), sign == "/", _numeric_key(key), integer)


def _choice(key: str, text: str) -> Choice:
    options = tuple(read(item, key) for item in items(text))
    twice = next((option for place, option in enumerate(options) if option in options[:place]), None)
    if twice is not None:
        raise ValueError(f"{render(twice)} stands in it twice; keep one")
    return Choice(options)  # type: ignore[arg-type]  # lists and paths cannot be searched, and nothing is read as None


def _range(key: str, name: str, arguments: list[str]) -> Range:
    expected = _ARGUMENTS[name]
    if len(arguments) not in ((2, 3) if name == "randint" else (len(expected),)):
        raise ValueError(f"write {name}({', '.join(expected)}){', or without STEP' if name == 'randint' else ''}")
    low, high = (_bound(key, text) for text in arguments[:2])
    step = _literal(arguments[2]) if len(arguments) > 2 else 1.0 if name == "randint" else None
    if step is not None and (step <= 0 or (name == "randint" and step != int(step))):
        raise ValueError(f"its step is {step:g}; it must be above 0{' and whole' if name == 'randint' else ''}")
    found = Range(low, high, int(step) if step and name == "randint" else step, log=name == "loguniform", integer=name == "randint")
    if isinstance(low, str) or isinstance(high, str):
        return found
    if low == high:
        raise ValueError(f"its bounds are both {low:g}; write {key.split('.')[1]} = {low:g} in section [{key.split('.')[0]}] instead")
    found.domain(lambda key: None)
    return found


def _bound(key: str, text: str) -> float | str:
    """A number that the setting allows, or the name of a setting of numbers."""
    if _names_setting(text):
        other = _numeric_key(text)
        if form_of(key).kind == "integer" and form_of(other).kind != "integer":
            raise ValueError(f"{other} is no whole number, and cannot bound one")
        return other
    _literal(text)
    return read(text, key)  # type: ignore[return-value]


def _names_setting(text: str) -> bool:
    """Whether it is meant as the name of one."""
    return "." in text and text[0].isalpha()


def _numeric_key(text: str) -> str:
    key = _key(text)
    if form_of(key).kind not in _NUMERIC:
        raise ValueError(f"{key} is no number")
    return key


def _key(text: str) -> str:
    wrong = unknown(text) if "." in text else f"{text or 'an empty text'} is no setting; write section.key"
    if wrong:
        raise ValueError(wrong)
    return text


def _literal(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text or 'an empty text'} is neither a number nor a setting (section.key)") from None
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text or 'an empty text'} is no condition; write for example training.optimizer = sgd, or federation.rounds > 10"
        )
    key, sign, values = _key(found[1]), found[2], _split(found[3], "or")
    if sign in ("=", "!="):
        return Condition(key, sign, tuple(read(value, key) for value in values))
    if len(values) > 1:
        raise ValueError(f"{text}: {sign} takes a single number")
    return Condition(_numeric_key(key), sign, (_literal(values[0]),))


def _number(key: str, look: Lookup) -> float:
    value = look(key)
    if not isinstance(value, int | float):
        raise ValueError(f"{key} is empty; give it a value, or search it")
    return value


def _where(bounds: tuple[float | str, ...], look: Lookup) -> str:
    named = [f"{bound} = {render(look(bound))}" for bound in bounds if isinstance(bound, str)]
    return f", where {' and '.join(named)}" if named else ""
