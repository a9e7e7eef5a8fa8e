"""The space of a search: which settings are drawn, from what, under which conditions, and what follows from them.

It is written beside the keys of ``[search]``; :mod:`primia.search.space.grammar` reads it, :mod:`primia.search.space.rules` checks it,
and this module walks it: setting by setting, each after those that it depends on. A walk is told by a function where values come from: a
trial, known values, the last population, or chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import ValidationError

from primia.config.effects import has_effect, needs_of
from primia.config.fields import keys, render, value_of
from primia.config.reader import fault
from primia.config.settings import SearchSettings, Settings
from primia.errors import ConfigError
from primia.search.records import Value
from primia.search.space.domains import Domain, Suggester
from primia.search.space.grammar import Expression, Lookup, parse_expression
from primia.search.space.rules import check_names, check_space

__all__ = ["Replay", "Space", "Suggester"]

REDRAWN = 0.25
"""Part of the settings that a changed population draws anew instead of a step aside."""

_Source = Callable[["_Draw"], Value]


@dataclass(frozen=True)
class Replay:
    """The suggestions that give certain values, by the names under which they are asked: what is suggested, and from what."""

    values: dict[str, Value] = field(default_factory=dict)
    distributions: dict[str, Domain] = field(default_factory=dict)


@dataclass(frozen=True)
class _Draw:
    """One setting to be drawn; an alternative behind ``else`` has a name of its own, since one name may not have two kinds of domain."""

    key: str
    name: str
    domain: Domain


class _Outside(Exception):
    """Values that the space cannot give."""


@dataclass(frozen=True)
class Space:
    """A checked space.

    ``base``: the settings as given, without the space. ``names``: searched keys, each after those that it depends on. ``expressions``: by
    key, in that order.
    """

    base: Settings
    expressions: Mapping[str, Expression]

    @classmethod
    def of(cls, settings: Settings) -> Space:
        """The space of these settings.

        Raises:
            ConfigError: there is none, or it is malformed, or contradicts itself; one line that names the key.
        """
        texts = settings.search.space
        check_names(texts)
        expressions = {key: parse_expression(key, text) for key, text in texts.items()}
        base = settings.model_copy(update={"search": settings.search.model_copy(update={"space": {}})})
        space = cls(base, {key: expressions[key] for key in _ordered(expressions)})
        check_space(space)
        return space

    @property
    def names(self) -> tuple[str, ...]:
        """Searched keys, each after those that it depends on."""
        return tuple(self.expressions)

    @property
    def is_finite(self) -> bool:
        """Whether there are finitely many combinations."""
        return all(expression.is_finite for expression in self.expressions.values())

    @property
    def needs_own_actors(self) -> bool:
        """Whether a searched setting changes which shards are made, or what actors are."""
        return any(
            key in ("run.mode", "run.site") or (key.startswith(("data.", "resources.")) and key != "data.normalisation")
            for key in self.names
        )

    def draw(self, trial: Suggester) -> dict[str, Value]:
        """Values of the settings that have an effect, drawn by a trial or following from those, in the order of ``names``."""
        return self._walk(lambda draw: draw.domain.suggest(trial, draw.name))

    def random(self, generator: np.random.Generator) -> dict[str, Value]:
        """As :meth:`draw`, by chance."""
        return self._walk(lambda draw: draw.domain.draw(generator))

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Every point of a finite space; of dense numbers the two ends stand for all.

        The walk is repeated with the place of each option told, and the places are counted up as an odometer is.
        """
        places: list[int] = []
        while True:
            sizes: list[int] = []

            def place(draw: _Draw, sizes: list[int] = sizes) -> Value:
                if len(sizes) == len(places):
                    places.append(0)
                sizes.append(draw.domain.size or 2)
                return draw.domain.at(places[len(sizes) - 1])

            yield self._walk(place)
            while places and places[-1] + 1 == sizes[len(places) - 1]:
                places.pop()
            if not places:
                return
            places[-1] += 1

    def ends(self) -> Iterator[dict[str, Value]]:
        """The point of all first options and lowest numbers, and that of all last and highest."""
        yield self._walk(lambda draw: draw.domain.at(0))
        yield self._walk(lambda draw: draw.domain.at((draw.domain.size or 2) - 1))

    def given(self) -> dict[str, Value] | None:
        """The file's own values as a point of the space; None where one lies outside, or differs from what would follow."""
        return self.point(self.base)

    def point(self, settings: Settings) -> dict[str, Value] | None:
        """The searched settings' values in ``settings`` as a point of the space; None where one lies outside."""
        found = self._located({key: value_of(settings, key) for key in self.names})
        return found and found[0]

    def replay(self, values: Mapping[str, Value]) -> Replay | None:
        """Which suggestions give these values; None where none do."""
        found = self._located(values)
        return found and found[1]

    def settings(self, values: Mapping[str, Value]) -> Settings:
        """The given settings with ``values`` in them, and ``[search]`` at its defaults: those of one trial.

        Raises:
            ConfigError: the values contradict each other.
        """
        tree = self.base.model_dump() | {"search": SearchSettings()}
        for key, value in values.items():
            section, name = key.split(".")
            tree[section][name] = value
        try:
            return Settings.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_contradiction(values, fault(error.errors()[0]))) from None

    def changed(self, values: Mapping[str, Value], generator: np.random.Generator) -> dict[str, Value]:
        """A neighbour: numbers a fifth more or less, choices one step aside, and a quarter of them drawn anew."""

        def change(draw: _Draw) -> Value:
            value = values.get(draw.key)
            if value is None or not draw.domain.contains(value) or generator.random() < REDRAWN:
                return draw.domain.draw(generator)
            return draw.domain.neighbour(value, generator)

        return self._walk(change)

    def _walk(self, source: _Source) -> dict[str, Value]:
        """Values of all settings that have an effect under the values before them."""
        values: dict[str, Value] = {}
        look = self._lookup(values)
        for key, expression in self.expressions.items():
            place = expression.place(look)
            if place is None or not has_effect(key, look):
                continue
            chosen = expression.resolve(place, look)
            values[key] = source(_Draw(key, f"{key}#{place + 1}" if place else key, chosen)) if isinstance(chosen, Domain) else chosen
        return values

    def _lookup(self, values: Mapping[str, Value]) -> Lookup:
        """The value of any setting: as drawn so far, else as the file gives it."""
        return lambda key: values[key] if key in values else value_of(self.base, key)

    def _located(self, wanted: Mapping[str, object]) -> tuple[dict[str, Value], Replay] | None:
        """The point that has these values, and its suggestions; what is wanted of settings without effect does not matter."""
        replay = Replay()

        def recall(draw: _Draw) -> Value:
            value = wanted.get(draw.key)
            if not isinstance(value, Value) or not draw.domain.contains(value):
                raise _Outside
            replay.values[draw.name], replay.distributions[draw.name] = value, draw.domain
            return value

        try:
            values = self._walk(recall)
            self.settings(values)
        except (_Outside, ConfigError):
            return None
        look = self._lookup(values)
        return (values, replay) if all(_agrees(key, value, look) for key, value in wanted.items()) else None


def _agrees(key: str, wanted: object, look: Lookup) -> bool:
    """Whether a setting has the wanted value, or has no effect."""
    if key not in keys():
        return False
    actual = look(key)
    close = isinstance(actual, float) and isinstance(wanted, int | float) and math.isclose(actual, wanted)
    return close or actual == wanted or not has_effect(key, look)


def _ordered(expressions: Mapping[str, Expression]) -> Sequence[str]:
    """Keys as they are written, but each after those that it depends on."""
    order: dict[str, None] = {}

    def visit(key: str, behind: tuple[str, ...]) -> None:
        if key in behind:
            circle = " -> ".join((*behind[behind.index(key) :], key))
            raise ConfigError(f"[search] these settings wait for each other: {circle}; take one of them out of a condition or bound")
        if key in order:
            return
        for other in (*expressions[key].keys, *(need.other for need in needs_of(key))):
            if other in expressions:
                visit(other, (*behind, key))
        order[key] = None

    for key in expressions:
        visit(key, ())
    return tuple(order)


def _contradiction(values: Mapping[str, Value], reason: str) -> str:
    """The values that the reason names; all where it names none."""
    named = {key: value for key, value in values.items() if key in reason} or values
    combination = ", ".join(f"{key} = {render(value)}" for key, value in named.items())
    return f"[search] can draw {combination}, but {reason}; say when it is drawn: ... only if KEY = VALUE"
