"""What one suggestion is drawn from: a range of numbers, or a few options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from primia.search.records import Value

_NEAR = 1e-8
"""Part of a step by which a number may miss it: what is left of adding floats."""
_MOST_STEPS, _MOST_WHOLE_STEPS = 1e7, 2.0**53
"""With more, floats miss their step by more than that; whole numbers are exact for longer."""


class Suggester(Protocol):
    """What a search library's trials offer."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """A number between two others."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number between two others."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of a few options, of their own type."""


@dataclass(frozen=True)
class Number:
    """Numbers from ``low`` to ``high``, both included: in steps from ``low`` on, or evenly over their logarithms, or evenly.

    Whole numbers always have a step. ``high`` is on a step where it is made by :meth:`stepped`.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = False

    @classmethod
    def stepped(cls, low: float, high: float, step: float, integer: bool = False) -> Number:
        """Numbers in steps; ``high`` falls to the last step that it reaches.

        Raises:
            ValueError: there are too many to tell apart.
        """
        whole = Number(low, high, step, integer=integer)
        steps = whole._position(high)
        most = _MOST_WHOLE_STEPS if integer else _MOST_STEPS
        if steps > most:
            raise ValueError(f"it has {steps:.3g} steps of {step:g}, and {most:.0e} at most are possible; make the step larger")
        return Number(whole.low, whole._at(math.floor(steps + _NEAR)), step, integer=integer)

    @property
    def size(self) -> int | None:
        """How many numbers there are; None where they are dense."""
        return None if self.step is None else round(self._position(self.high)) + 1

    def at(self, index: int) -> float:
        """The number on a step, the first being 0; of dense numbers 0 is the lowest and 1 the highest."""
        return (self.low, self.high)[index] if self.step is None else self._at(index)

    def contains(self, value: object) -> bool:
        """Whether a value could have been drawn."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs(self._position(value) - round(self._position(value))) < _NEAR

    def draw(self, generator: np.random.Generator) -> float:
        """One of the numbers at random."""
        if self.size is not None:
            return self.at(int(generator.integers(self.size)))
        if not self.log:
            return self._within(generator.uniform(self.low, self.high))
        return self._within(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))

    def neighbour(self, value: Value, generator: np.random.Generator) -> float:
        """A fifth more or less, at least one step, and never beyond the ends."""
        number = float(value)
        moved = number + (1 if generator.random() < 0.5 else -1) * max(0.2 * abs(number), self.step or 0.0)
        return self._within(moved) if self.size is None else self.at(min(max(round(self._position(moved)), 0), self.size - 1))

    def suggest(self, trial: Suggester, name: str) -> float:
        """What a trial suggests under ``name``."""
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1))
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def _within(self, number: float) -> float:
        return float(min(max(number, self.low), self.high))

    def _position(self, number: float) -> float:
        """Steps between the lowest number and this one."""
        assert self.step is not None
        return (number - self.low) / self.step

    def _at(self, index: int) -> float:
        """In decimals, since 3 times 0.1 is not 0.3 in floats."""
        number = Decimal(str(self.low)) + index * Decimal(str(self.step))
        return int(number) if self.integer else float(number)


@dataclass(frozen=True)
class Choice:
    """One of ``options``, which never change within a search."""

    options: tuple[Value, ...]

    @property
    def size(self) -> int:
        """How many options there are."""
        return len(self.options)

    def at(self, index: int) -> Value:
        """An option by its place."""
        return self.options[index]

    def contains(self, value: object) -> bool:
        """Whether it is an option."""
        return value in self.options

    def draw(self, generator: np.random.Generator) -> Value:
        """One of the options at random."""
        return self.at(int(generator.integers(self.size)))

    def neighbour(self, value: Value, generator: np.random.Generator) -> Value:
        """The option before or behind, and never beyond the ends."""
        aside = self.options.index(value) + (1 if generator.random() < 0.5 else -1)
        return self.at(min(max(aside, 0), self.size - 1))

    def suggest(self, trial: Suggester, name: str) -> Value:
        """What a trial suggests under ``name``."""
        value: Value = trial.suggest_categorical(name, self.options)
        return value


Domain = Number | Choice
