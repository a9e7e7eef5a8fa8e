"""From settings, plan and the sites' facts to what a run needs before its first round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from primia.config.settings import Settings
from primia.data.statistics import Normalisation, PixelSums
from primia.errors import DataError
from primia.federation.plan import POOLED, SPLITS, SitePlan, round_steps
from primia.federation.site import Session, SiteFacts
from primia.federation.update import GlobalModel
from primia.models.flat import FlatSpec
from primia.models.registry import build_model
from primia.training.learner import LearnerSpec


@dataclass(frozen=True)
class RunSetup:
    """Everything that the driver actor is started with; picklable."""

    settings: Settings
    sites: tuple[SitePlan, ...]
    classes: tuple[str, ...]
    channels: int
    image_size: int
    synthetic: bool
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    device: str
    folder: Path
    started_at: float
    data_seconds: float

    @property
    def training_sites(self) -> tuple[str, ...]:
        """Names of the sites that take part in rounds."""
        return tuple(site.name for site in self.sites if site.trains)

    @property
    def selecting_sites(self) -> tuple[str, ...]:
        """Names of the sites whose validation shard chooses the best model."""
        return tuple(site.name for site in self.sites if site.selects)

    @property
    def testing_sites(self) -> tuple[str, ...]:
        """Names of the sites with a test shard."""
        return tuple(site.name for site in self.sites if site.test)


@dataclass(frozen=True)
class Prepared:
    """What follows from the sites' facts."""

    session: Session
    steps: Mapping[str, int]
    flat: FlatSpec
    initial: GlobalModel
    pooled_normalisation: Normalisation
    class_counts: Mapping[str, Mapping[str, Mapping[str, int]]]


def prepare_run(setup: RunSetup, facts: Sequence[SiteFacts]) -> Prepared:
    """Session, steps a round, initial model and normalisation of a run.

    Raises:
        DataError: a site is smaller than a batch, or a class has no training image while ``class_weights`` is on.
        ModelError: the model does not fit the input.
    """
    settings = setup.settings
    training_images = {fact.name: fact.training_images for fact in facts if fact.training_images}
    steps = round_steps(training_images, setup.sites, settings.federation, settings.training)
    pooled = reduce(PixelSums.__add__, (fact.pixels for fact in facts if fact.pixels)).normalisation()
    learner = LearnerSpec(
        model=settings.model,
        training=settings.training,
        augmentation=settings.augmentation,
        proximal_mu=settings.federation.proximal_mu if settings.run.mode == "federated" else 0.0,
        precision=settings.resources.precision,
        device=setup.device,
        classes=setup.classes,
        channels=setup.channels,
        image_size=setup.image_size,
        seed=settings.run.seed,
        class_weights=_class_weights(setup, facts) if settings.training.class_weights else None,
    )
    model = build_model(
        settings.model, classes=len(setup.classes), channels=setup.channels, image_size=setup.image_size, seed=settings.run.seed
    )
    flat = FlatSpec.of(model)
    session = Session(
        id=str(setup.folder),
        learner=learner,
        federation=settings.federation,
        normalisations={fact.name: _normalisation(settings, fact, pooled) for fact in facts},
        state_folder=setup.folder / "sites",
    )
    initial = GlobalModel(0, flat.parameters(model), flat.buffers(model))
    return Prepared(session, steps, flat, initial, pooled, _counts(setup.classes, facts))


def _normalisation(settings: Settings, fact: SiteFacts, pooled: Normalisation) -> Normalisation:
    own = settings.data.normalisation == "site" and fact.pixels is not None
    return fact.pixels.normalisation() if own and fact.pixels else pooled


def _class_weights(setup: RunSetup, facts: Sequence[SiteFacts]) -> tuple[float, ...]:
    """Inverse class frequency over the training sites, scaled so that the mean over images is 1."""
    training = set(setup.training_sites)
    counts = np.sum([fact.class_counts["train"] for fact in facts if fact.name in training], axis=0)
    for name, count in zip(setup.classes, counts, strict=True):
        if not count:
            raise DataError(f"class {name!r} has no training image, so it has no weight; set training.class_weights = no or add images")
    return tuple(float(weight) for weight in counts.sum() / (len(counts) * counts))


def _counts(classes: Sequence[str], facts: Sequence[SiteFacts]) -> dict[str, dict[str, dict[str, int]]]:
    return {
        split: {
            fact.name: {name: int(count) for name, count in zip(classes, fact.class_counts[split], strict=True)}
            for fact in facts
            if split in fact.class_counts and fact.name != POOLED
        }
        for split in SPLITS
    }
