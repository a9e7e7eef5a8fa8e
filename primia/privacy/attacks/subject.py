"""The run that is audited, as its folder and its data owners have it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from primia.config.reader import load_config
from primia.config.settings import Settings
from primia.data.closed import refuse_box
from primia.data.federation import FederatedData, SiteShards
from primia.data.shard import JoinedDataset, Shard
from primia.errors import ConsentError, RunError
from primia.models.file import ModelCard, load_model
from primia.models.registry import build_model
from primia.privacy.mechanism import Mechanism
from primia.training.learner import LearnerSpec
from primia.untrusted.documents import read_object
from primia.untrusted.files import check_folder, printable

Locate = Callable[[Settings], FederatedData]


@dataclass(frozen=True)
class Budget:
    """The largest epsilon and delta that the accountant gives any site for the whole run."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Stated:
    """What the run states of the mechanism of one site, or of the federation where sites are protected."""

    site: str
    unit: str
    mechanism: Mechanism
    views: int
    steps: int
    delta: float
    accountant: str

    @classmethod
    def of(cls, site: str, statement: Mapping[str, Any]) -> Stated:
        """The statement of one site in ``summary.json``."""
        mechanism = Mechanism(*(statement[name] for name in ("noise_multiplier", "clip", "sample_rate", "units")))
        return cls(site, mechanism=mechanism, **{name: statement[name] for name in ("unit", "views", "steps", "delta", "accountant")})


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished run with the images that it was trained on."""

    path: Path
    settings: Settings
    summary: dict[str, Any]
    card: ModelCard
    best_model: nn.Module
    data: FederatedData

    @classmethod
    def open(cls, path: Path, locate: Locate) -> Subject:
        """Read a run folder; ``locate`` finds the images that its settings name.

        Raises:
            RunError: not a run folder, the run is not finished, or the images are not those it was trained on.
            DataError, ModelError: images or model are not there any more, or are broken.
            ConsentError: a site box whose private half this user may not read, or that the folder lies in.
        """
        refuse_box(path)
        summary, settings = _read_summary(path), load_config(path / "config.ini")
        model, card = load_model(path)
        data = locate(settings)
        _check_images(path, data)
        return cls(path, settings, summary, card, model, data)

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.summary["name"])

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
        sites = (self.summary.get("privacy") or {}).get("sites") or {}
        spent = [Budget(site["epsilon"], site["delta"]) for site in sites.values() if site.get("epsilon") is not None]
        return max(spent, key=lambda budget: budget.epsilon, default=None)

    @property
    def stated(self) -> Stated | None:
        """What is stated where the noise is weakest; None for a run without differential privacy, or without a step of it."""
        sites = (self.summary.get("privacy") or {}).get("sites") or {}
        found = [Stated.of(name, site) for name, site in sites.items() if site.get("steps")]
        return min(found, key=lambda each: each.mechanism.noise_multiplier / each.mechanism.sample_rate, default=None)

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


def _read_summary(path: Path) -> dict[str, Any]:
    if not (path / "config.ini").is_file():
        raise RunError(f"{path} is not a run folder: it has no config.ini; give the folder that primia-ray train names at its end")
    try:
        check_folder(path)
        return read_object(path / "summary.json")
    except FileNotFoundError:
        raise RunError(f"{path} has no summary.json: the run is not finished; go on with: primia-ray train --resume {path}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'summary.json'} cannot be read ({printable(error)}); was the run folder copied whole?") from None


def _check_images(path: Path, data: FederatedData) -> None:
    try:
        trained_on = read_object(path / "data.json").get("fingerprint")
    except (OSError, ValueError) as error:
        raise RunError(f"{path / 'data.json'} cannot be read ({printable(error)}); was the run folder copied whole?") from None
    if data.fingerprint != trained_on:
        raise RunError(f"{path}: the images are not those that it was trained on; put them back, or audit a run on the new ones")
    for site in data.sites:
        for shard in (site.train, site.validation, site.test):
            if shard and not os.access(shard, os.R_OK):
                raise ConsentError(
                    f"{shard}: the private images of site {site.name!r} are not yours to read; an audit is run by their owners"
                )


def _joined(paths: Iterable[tuple[SiteShards, Path | None]]) -> JoinedDataset:
    """The shards at these paths; :func:`primia.api.audits.audit` has asked for the grants of those in boxes."""
    return JoinedDataset([Shard.open(path, box=site.box) for site, path in paths if path])
