"""The run that is audited, as its folder and its data owners have it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from torch import nn

from primia.config.reader import load_config
from primia.config.settings import Settings
from primia.data.closed import refuse_box
from primia.data.prepare import Check, FederatedData, SiteShards, check_trained_on
from primia.data.shard import JoinedDataset, Shard
from primia.errors import ConsentError, RunError
from primia.models.file import ModelCard, load_model
from primia.models.registry import build_model
from primia.privacy.mechanism import Mechanism
from primia.training.learner import LearnerSpec
from primia.untrusted.documents import read_object, validated
from primia.untrusted.files import check_folder, printable

_Amount = Annotated[float, Field(ge=0.0, le=1e30)]
_Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
_Delta = Annotated[float, Field(ge=0.0, lt=1.0)]
_Count = Annotated[int, Field(ge=1, le=10**9)]

Locate = Callable[[Settings, Check], FederatedData]
"""Finds the images that settings name, once their fingerprint has passed a check."""


@dataclass(frozen=True)
class Budget:
    """The largest epsilon and delta that the accountant gives any site for the whole run."""

    epsilon: _Amount
    delta: _Delta


@dataclass(frozen=True)
class Stated:
    """What the run states of the mechanism of one site, or of the federation where sites are protected."""

    site: str
    unit: Literal["image", "patient", "site"]
    mechanism: Mechanism
    views: Annotated[int, Field(ge=1, le=1000)]
    steps: _Count
    delta: Annotated[_Delta, Field(gt=0.0)]
    accountant: Literal["prv", "rdp"]

    @classmethod
    def of(cls, site: str, statement: Mapping[str, Any]) -> Stated:
        """The statement of one site in ``summary.json``; :class:`~primia.untrusted.files.Unusable` where it can be none."""
        scale: _Step = validated(_STEP, statement)
        mechanism = Mechanism(scale.noise_multiplier, scale.clip, scale.sample_rate, scale.units)
        stated: Stated = validated(_STATED, {**statement, "site": site, "mechanism": mechanism})
        return stated


@dataclass(frozen=True)
class _Step:
    """A mechanism as it is written."""

    noise_multiplier: _Scale
    clip: _Scale
    sample_rate: Annotated[float, Field(ge=1e-9, le=1.0)]
    units: _Count


_BUDGET, _STATED, _STEP = TypeAdapter(Budget), TypeAdapter(Stated), TypeAdapter(_Step)
_SITES = TypeAdapter(dict[str, dict[str, Any]])


@dataclass(frozen=True)
class Summary:
    """What an audit needs of ``summary.json``: the run's name, what its sites have spent, and what they state of how."""

    name: str
    spent: tuple[Budget, ...]
    stated: tuple[Stated, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Summary:
        """The typed form of the document; :class:`~primia.untrusted.files.Unusable` where it is none of a run."""
        parts: _Parts = validated(_PARTS, document)
        sites: dict[str, dict[str, Any]] = validated(_SITES, (parts.privacy or {}).get("sites") or {})
        spent = tuple(validated(_BUDGET, site) for site in sites.values() if site.get("epsilon") is not None)
        stated = tuple(Stated.of(name, site) for name, site in sites.items() if site.get("steps") not in (None, 0))
        return cls(parts.name, spent, stated)


@dataclass(frozen=True)
class _Parts:
    """The rest is passed over."""

    name: Annotated[str, Field(max_length=1000)]
    privacy: dict[str, Any] | None = None


_PARTS = TypeAdapter(_Parts)


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished run with the images that it was trained on."""

    path: Path
    settings: Settings
    summary: Summary
    card: ModelCard
    best_model: nn.Module
    data: FederatedData

    @classmethod
    def open(cls, path: Path, locate: Locate) -> Subject:
        """Read a run folder; ``locate`` finds the images that its settings name, where they are those that it was trained on.

        Raises:
            RunError: not a run folder, or the run is not finished.
            DataError, ModelError: images or model are not there any more, are broken, or are not those it was trained on.
            ConsentError: a site box whose private half this user may not read, or that the folder lies in.
        """
        refuse_box(path)
        summary, settings = _read_summary(path), load_config(path / "config.ini", follow=False)
        model, card = load_model(path)
        data = locate(settings, partial(check_trained_on, path))
        _check_readable(data)
        return cls(path, settings, summary, card, model, data)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.summary.name

    @cached_property
    def training_sites(self) -> tuple[SiteShards, ...]:
        """Sites whose training images the model was trained on."""
        run = self.settings.run
        return tuple(site for site in self.data.sites if site.train and (run.mode != "local" or site.name == run.site))

    @cached_property
    def members(self) -> JoinedDataset:
        """Images that the model was trained on."""
        return _joined((site, site.train) for site in self.training_sites)

    @cached_property
    def others(self) -> JoinedDataset:
        """Images like them that it was not trained on: the test images, or else those for validation."""
        test = [(site, site.test) for site in self.data.sites if site.test]
        return _joined(test or [(site, site.validation) for site in self.data.sites])

    @property
    def site_images(self) -> tuple[int, ...]:
        """Training images of each training site."""
        return tuple(len(Shard.open(site.train, box=site.box)) for site in self.training_sites if site.train)

    @property
    def budget(self) -> Budget | None:
        """What the run's accountant says; None for a run without differential privacy."""
        return max(self.summary.spent, key=lambda budget: budget.epsilon, default=None)

    @property
    def stated(self) -> Stated | None:
        """What is stated where the noise is weakest; None for a run without differential privacy, or without a step of it."""
        return min(self.summary.stated, key=lambda each: each.mechanism.noise_multiplier / each.mechanism.sample_rate, default=None)

    def shard_of(self, name: str) -> Shard:
        """The training images of a site; :func:`primia.api.audits.audit` has asked for the grants of those in boxes.

        Raises:
            RunError: the run has no such site.
        """
        for site in self.training_sites:
            if site.name == name and site.train:
                return Shard.open(site.train, box=site.box)
        raise RunError(
            f"{self.path / 'summary.json'} states the privacy of a site {name!r} that is not in this run; was the folder mixed up?"
        )

    @property
    def epochs(self) -> int:
        """How often the run saw each training image, at least once."""
        federation, batch = self.settings.federation, self.settings.training.batch_size
        if not federation.sync_every_n_batch:
            return federation.rounds * federation.local_epochs
        seen = federation.rounds * federation.sync_every_n_batch * batch * len(self.training_sites)
        return max(1, round(seen / len(self.members)))

    def first_model(self) -> nn.Module:
        """The model of round 0, just as the first round sent it to the sites."""
        card = self.card
        return build_model(
            self.settings.model, classes=len(card.classes), channels=card.channels, image_size=card.image_size, seed=self.settings.run.seed
        )

    def learner_spec(self) -> LearnerSpec:
        """How to train another model like this one, in one place."""
        return LearnerSpec(
            model=self.settings.model,
            training=self.settings.training,
            augmentation=self.settings.augmentation,
            proximal_mu=0.0,
            precision=self.settings.resources.precision,
            device="cpu",
            classes=self.card.classes,
            channels=self.card.channels,
            image_size=self.card.image_size,
            seed=self.settings.run.seed,
            class_weights=None,
        )


def _read_summary(path: Path) -> Summary:
    if not (path / "config.ini").is_file():
        raise RunError(f"{path} is not a run folder: it has no config.ini; give the folder that primia-ray train names at its end")
    try:
        check_folder(path)
        return Summary.of(read_object(path / "summary.json"))
    except FileNotFoundError:
        raise RunError(f"{path} has no summary.json: the run is not finished; go on with: primia-ray train --resume {path}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'summary.json'} cannot be read ({printable(error)}); was the run folder copied whole?") from None


def _check_readable(data: FederatedData) -> None:
    for site in data.sites:
        for shard in (site.train, site.validation, site.test):
            if shard and not os.access(shard, os.R_OK):
                raise ConsentError(
                    f"{shard}: the private images of site {site.name!r} are not yours to read; an audit is run by their owners"
                )


def _joined(paths: Iterable[tuple[SiteShards, Path | None]]) -> JoinedDataset:
    """The shards at these paths; :func:`primia.api.audits.audit` has asked for the grants of those in boxes."""
    return JoinedDataset([Shard.open(path, box=site.box) for site, path in paths if path])
