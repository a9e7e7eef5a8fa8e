"""From settings, plan and the sites' facts to what a run needs before its first round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primia.data.statistics import Normalisation, PixelSums
from primia.errors import DataError, FederationError
from primia.federation.driver.collect import CollectedFacts, Collector, PlainCollector
from primia.federation.driver.collect_secure import SecureCollector
from primia.federation.driver.draws import draws_of, site_seed
from primia.federation.driver.hosts import Hosts
from primia.federation.messages import Charter, Session, TrainingFacts
from primia.federation.plan import POOLED, SPLITS, single_learner_steps
from primia.federation.private_updates import PrivateUpdates
from primia.federation.run_spec import RunSetup
from primia.federation.stages import Stage, build_stages
from primia.federation.update import GlobalModel
from primia.files import atomic_text, private_folder
from primia.models.flat import FlatSpec
from primia.models.registry import build_model
from primia.privacy.ledger import Ledger
from primia.privacy.noise import SecureGenerator
from primia.privacy.site import PrivacyPlan, SitePrivacy
from primia.privacy.statistics import normalisation_of, public_normalisation
from primia.runs.folder import RunFolder, unreadable
from primia.runs.rounds import ALL_SITES
from primia.secagg.identity import Identity
from primia.training.learner import LearnerSpec
from primia.untrusted.files import Unusable, printable, read_file


@dataclass(frozen=True)
class Prepared:
    """What follows from the sites' facts.

    ``train_units``: training images, or patients where those are protected. ``steps``: optimiser steps of a round, all sites together.
    ``single_steps``: those of the one learner where there is no federation. ``class_counts``: split -> site -> class -> images, as far as
    sites tell. ``private_sites``: keeper of the budget where whole sites are protected. ``stages``: with the driver's halves.
    """

    session: Session
    collector: Collector
    steps: int
    single_steps: int | None
    train_units: int
    flat: FlatSpec
    initial: GlobalModel
    class_counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    private_sites: SitePrivacy | None
    stages: tuple[Stage, ...]


def prepare_run(setup: RunSetup, hosts: Hosts, identity: Identity) -> Prepared:
    """Ask all sites for their facts; session, steps a round and initial model follow. ``identity``: the driver's keys.

    Raises:
        DataError: a site is smaller than a batch, or a class has no training image while ``class_weights`` is on.
        FederationError: too few sites take part, or an actor cannot be started.
        ModelError: the model does not fit the input.
    """
    settings = setup.settings
    model = build_model(
        settings.model, classes=len(setup.classes), channels=setup.channels, image_size=setup.image_size, seed=settings.run.seed
    )
    flat = FlatSpec.of(model)
    collector, charter = _collector(setup, hosts, flat, identity)
    others = [site.name for site in setup.sites if not site.trains]
    facts = _facts(setup, collector, others)
    if not facts.total.images:
        raise FederationError(f"no training site takes part: {'; '.join(facts.absent.values())}")
    session = Session(charter, _learner_spec(setup, facts.total), _normalisation(setup, facts.total.pixels), _total_weight(setup, facts))
    owners, federated = facts.total.sites, settings.run.mode == "federated"
    private = _private_sites(setup, charter)
    single = None if federated else single_learner_steps(facts.total.steps, owners, settings.federation.sites_per_round)
    return Prepared(
        session=session,
        collector=collector,
        steps=facts.total.steps if single is None else single,
        single_steps=single,
        train_units=facts.total.images,
        flat=flat,
        initial=GlobalModel(0, flat.parameters(model), flat.buffers(model)),
        class_counts=_counts(setup, facts),
        private_sites=private,
        stages=build_stages(settings, flat, session.total_weight, _private_updates(setup, private)),
    )


def _facts(setup: RunSetup, collector: Collector, others: Sequence[str]) -> CollectedFacts:
    """Asked for once in a run: asked again with another site out, they would tell by subtraction what it has."""
    path = RunFolder(setup.folder).facts
    if path.exists():
        known = _known_facts(path)
        _check_facts(setup, known, path)
        collector.join([*setup.training_sites, *others])
        return known
    facts = collector.facts(setup.training_sites, others)
    if facts.total.images:
        atomic_text(path, facts.to_json())
    return facts


def _known_facts(path: Path) -> CollectedFacts:
    try:
        return CollectedFacts.from_json(read_file(path).decode())
    except (OSError, ValueError) as error:
        raise unreadable(path, printable(error)) from None


def _check_facts(setup: RunSetup, facts: CollectedFacts, path: Path) -> None:
    try:
        names = [site.name for site in setup.sites]
        facts.check_fit(names, len(setup.classes), setup.channels, exact=not setup.settings.privacy.is_on)
    except Unusable as error:
        raise unreadable(path, str(error)) from None


def _collector(setup: RunSetup, hosts: Hosts, flat: FlatSpec, identity: Identity) -> tuple[Collector, Charter]:
    charter = Charter(
        id=setup.charter_id,
        run=RunFolder(setup.folder).identity(),
        sites=tuple(sorted(site.name for site in setup.sites)),
        settings=setup.settings,
        classes=setup.classes,
        channels=setup.channels,
        state_folder=setup.folder / "sites",
        driver=identity.public,
        account=setup.account,
        training=setup.training_sites,
    )
    plain = PlainCollector(hosts, charter, flat, identity)
    return (SecureCollector(hosts, charter, flat, plain) if charter.is_secure else plain), charter


def _learner_spec(setup: RunSetup, facts: TrainingFacts) -> LearnerSpec:
    settings = setup.settings
    return LearnerSpec(
        model=settings.model,
        training=settings.training,
        augmentation=settings.augmentation,
        proximal_mu=settings.federation.proximal_mu if settings.run.mode == "federated" else 0.0,
        precision=settings.resources.precision,
        device=setup.device,
        classes=setup.classes,
        channels=setup.channels,
        image_size=setup.image_size,
        seed=site_seed(settings.run, draws_of(settings.run, RunFolder(setup.folder).token())),
        class_weights=_class_weights(setup.classes, facts.class_counts) if settings.training.class_weights else None,
    )


def _normalisation(setup: RunSetup, pixels: PixelSums) -> Normalisation:
    privacy = setup.settings.privacy
    if not privacy.is_on:
        return pixels.normalisation()
    if privacy.statistics == "public":
        return public_normalisation(setup.channels)
    return normalisation_of(np.array([pixels.count, *pixels.total, *pixels.squares]))


def _private_sites(setup: RunSetup, charter: Charter) -> SitePrivacy | None:
    """Every site is in every round's noised sum: one release a round, at sample rate 1."""
    settings, sites = setup.settings, len(setup.training_sites)
    if settings.privacy.unit != "site":
        return None
    plan = PrivacyPlan(units=sites, batch_size=sites, steps=1, rounds=settings.federation.rounds)
    folder = charter.account.folder if charter.account else setup.folder
    private_folder(folder)
    ledger = Ledger(folder / "privacy.jsonl")
    limit = None if charter.account is None else charter.account.limit
    return SitePrivacy(settings.privacy, plan, ledger, federation=settings.federation.identity, run=charter.run, limit=limit)


def _private_updates(setup: RunSetup, keeper: SitePrivacy | None) -> PrivateUpdates | None:
    if keeper is None:
        return None
    return PrivateUpdates(keeper.mechanism.clip, len(setup.training_sites), keeper.mechanism.noise_multiplier, SecureGenerator())


def _total_weight(setup: RunSetup, facts: CollectedFacts) -> float:
    """Of all training sites; one that did not join may still come, with as many images as all others at most."""
    names = setup.training_sites
    if setup.settings.federation.weighting == "uniform":
        return float(len(names))
    absent = len(set(facts.absent) & set(names))
    return float(facts.total.images * (1 + absent))


def _class_weights(classes: Sequence[str], counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Inverse class frequency over the training sites, scaled so that the mean over images is 1."""
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise DataError(f"class {name!r} has no training image, so it has no weight; set training.class_weights = no or add images")
    return tuple(float(weight) for weight in counts.sum() / (len(counts) * counts))


def _counts(setup: RunSetup, facts: CollectedFacts) -> dict[str, dict[str, dict[str, int]]]:
    told = {
        split: {name: _by_class(setup, counts[split]) for name, counts in facts.counts.items() if split in counts and name != POOLED}
        for split in SPLITS
    }
    if not told["train"] and not setup.settings.privacy.is_on:
        told["train"] = {ALL_SITES: _by_class(setup, facts.total.class_counts)}
    return told


def _by_class(setup: RunSetup, counts: NDArray[np.int64]) -> dict[str, int]:
    return {name: int(count) for name, count in zip(setup.classes, counts, strict=True)}
