"""Decisions of a run as small pure classes: status in, decision and its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from primia.config.settings import FederationSettings
from primia.data.randomness import stream


@dataclass(frozen=True)
class Decision:
    """Whether to go on, and why not."""

    go_on: bool
    reason: str = ""


@dataclass(frozen=True)
class SiteDraw:
    """Draws the sites of a round, without replacement, from the run's seed and the round alone."""

    sites_per_round: int
    seed: int

    def draw(self, sites: Sequence[str], round_: int) -> tuple[str, ...]:
        """Names of the sites that take part, in the given order; all where ``sites_per_round`` is 0 or too large."""
        if not 0 < self.sites_per_round < len(sites):
            return tuple(sites)
        chosen = stream(self.seed, "draw", round_).choice(len(sites), size=self.sites_per_round, replace=False)
        return tuple(sites[index] for index in sorted(chosen))


@dataclass(frozen=True)
class Quorum:
    """Asks that a fraction of a round's sites, and at least one, delivers."""

    fraction: float

    def needed(self, drawn: int) -> int:
        """Sites that must deliver."""
        return max(1, ceil(self.fraction * drawn))

    def decide(self, delivered: int, drawn: int) -> Decision:
        """Go on where enough sites delivered."""
        needed = self.needed(drawn)
        if delivered >= needed:
            return Decision(True)
        return Decision(False, f"{delivered} of {drawn} sites delivered, the quorum is {needed} (federation.quorum = {self.fraction:g})")


@dataclass(frozen=True)
class EarlyStopping:
    """Stops after ``patience`` validations in a row without a better MCC; never with patience 0."""

    patience: int

    def decide(self, validations_since_best: int) -> Decision:
        """Go on while the best is recent."""
        if self.patience and validations_since_best >= self.patience:
            return Decision(False, f"no better validation MCC in {validations_since_best} validations (federation.patience)")
        return Decision(True)


@dataclass(frozen=True)
class RunPolicies:
    """The policies of one run."""

    draw: SiteDraw
    quorum: Quorum
    stopping: EarlyStopping

    @classmethod
    def of(cls, settings: FederationSettings, seed: int) -> RunPolicies:
        """Policies as the settings say."""
        return cls(SiteDraw(settings.sites_per_round, seed), Quorum(settings.quorum), EarlyStopping(settings.patience))
