"""What driver and sites say to each other; plain picklable data.

A site's contribution to a sum leaves it in one of three forms: added to those of the other sites of its host (nothing is hidden
from the driver), sealed for the driver, or masked so that only the sum over sites can be opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.numpy import load, save

from primia.config.settings import Settings
from primia.data.statistics import Normalisation, PixelSums
from primia.errors import ProtocolError
from primia.federation.refusals import Kind
from primia.federation.update import GlobalModel, Update, Vector
from primia.models.flat import FlatSpec
from primia.privacy.account import Account
from primia.secagg.identity import PublicIdentity
from primia.secagg.ring import RingVector
from primia.training.evaluation import Evaluation
from primia.training.learner import LearnerSpec

Metrics = Mapping[str, object]
Inbox = Mapping[str, bytes]


@dataclass(frozen=True)
class Charter:
    """The terms of a federation, the same for all of its sites.

    ``id`` names it among all that a host serves, ``run`` in the sites' books; ``sites`` are all that may ever take part; ``state_folder``
    holds a folder for each site that has no box; ``driver`` is whom sites seal for; ``account``: None where the run stands alone;
    ``training``: the sites that take part in rounds, in the order in which they are drawn.
    """

    id: str
    run: str
    sites: tuple[str, ...]
    settings: Settings
    classes: tuple[str, ...]
    channels: int
    state_folder: Path
    driver: PublicIdentity
    account: Account | None = None
    training: tuple[str, ...] = ()

    @property
    def ledgers(self) -> Path:
        """Folder of the privacy ledgers of what has no box, one folder a site."""
        return self.account.folder if self.account else self.state_folder

    @property
    def is_secure(self) -> bool:
        """Whether sites mask what they send."""
        return self.settings.run.mode == "federated" and self.settings.secure_aggregation.enabled

    @property
    def keeps_evaluations(self) -> bool:
        """Whether a site's evaluation may be seen in a sum over sites only."""
        return self.is_secure and not self.settings.secure_aggregation.site_metrics

    @property
    def is_sealed(self) -> bool:
        """Whether sites seal their updates for the driver instead."""
        return self.settings.run.mode == "federated" and not self.is_secure and self.settings.secure_aggregation.seal


@dataclass(frozen=True)
class Session:
    """A federation in work: its terms and what follows from all sites' facts.

    ``normalisation``: of all training images. ``total_weight``: of all training sites together.
    """

    charter: Charter
    learner: LearnerSpec
    normalisation: Normalisation
    total_weight: float


def facts_terms(charter: Charter) -> str:
    """Digest of the terms on which facts are told; sites whose driver told them other terms cannot add up to anything."""
    return _digest(["facts", charter])


def round_terms(session: Session, task: RoundTask, model: str) -> str:
    """Digest of all that decides a site's contribution to a round, apart from its images; ``model``: digest of the start."""
    return _digest(["round", session, task.round, task.rounds, task.steps, task.range, model])


def evaluation_terms(session: Session, split: str, round_: int, model: str) -> str:
    """Digest of all that decides a site's evaluation, apart from its images; ``model``: digest of what is evaluated."""
    return _digest(["evaluation", session, split, round_, model])


def model_digest(model: GlobalModel) -> str:
    """Digest of a model's vectors: their numbers, of which kind these are, and how many."""
    vectors = (model.parameters, model.buffers)
    return _digest(["model", *([vector.dtype.str, *vector.shape] for vector in vectors)], *vectors)


def _digest(content: list[object], *vectors: Vector) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode())
    for vector in vectors:
        digest.update(np.ascontiguousarray(vector).data)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """What JSON has no form for, as what it has one for: fields by their names, and paths as text."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is in no terms")


@dataclass(frozen=True)
class TrainingFacts:
    """Sums over training sites: images of each class, pixel sums, optimiser steps of a pass, images, sites."""

    class_counts: NDArray[np.int64]
    pixels: PixelSums
    steps: int
    images: int
    sites: int

    @classmethod
    def zero(cls, classes: int, channels: int) -> TrainingFacts:
        """Facts of no site."""
        return cls(np.zeros(classes, np.int64), PixelSums.zero(channels), 0, 0, 0)

    def __add__(self, other: TrainingFacts) -> TrainingFacts:
        return TrainingFacts(
            self.class_counts + other.class_counts,
            self.pixels + other.pixels,
            self.steps + other.steps,
            self.images + other.images,
            self.sites + other.sites,
        )


@dataclass(frozen=True)
class SiteFailure:
    """Why a site is left out. What a site itself says of it is its ``kind``, and ``reason`` the kind's fixed words.

    ``lost``: its actor did not answer. ``counted``: it is lost after it had delivered, so that its contribution is in the sum.
    """

    site: str
    reason: str
    kind: Kind = Kind.PROTOCOL
    lost: bool = False
    counted: bool = False

    @classmethod
    def of(cls, site: str, kind: Kind, *, lost: bool = False) -> SiteFailure:
        """In the words of its kind."""
        return cls(site, kind.value, kind, lost)

    @property
    def fatal(self) -> bool:
        """Whether going on would not help: a loss that is not finite."""
        return self.kind.is_fatal

    @property
    def spent(self) -> bool:
        """Whether its privacy budget does not allow the round."""
        return self.kind is Kind.SPENT


@dataclass(frozen=True)
class HostFacts:
    """Facts of a host's sites. ``counts``: images by class of each split, for the sites and splits that tell them."""

    total: TrainingFacts | RingVector | None
    delivered: tuple[str, ...]
    counts: Mapping[str, Mapping[str, NDArray[np.int64]]]
    failures: tuple[SiteFailure, ...]

    @classmethod
    def of_failures(cls, failures: tuple[SiteFailure, ...]) -> HostFacts:
        """Of a host none of whose sites did what was asked."""
        return cls(None, (), {}, failures)


@dataclass(frozen=True)
class RoundTask:
    """A round. ``steps``: of each site; None: a site's own pass over its images. States of rounds not in ``keep`` may be forgotten.

    ``least``: sites that must deliver for their sum to be opened. ``range``: largest change of a parameter that a masked update can hold.
    ``inboxes``: for each site what the others sealed for it.
    ``nonce``: what sealed updates are bound to, new each time a round is asked for.
    """

    round: int
    rounds: int
    sites: tuple[str, ...]
    steps: int | None
    least: int = 1
    keep: tuple[int, ...] = ()
    range: float = 0.0
    inboxes: Mapping[str, Inbox] = field(default_factory=dict)
    nonce: str = ""

    def of(self, sites: tuple[str, ...]) -> RoundTask:
        """The part of some sites."""
        return replace(self, sites=sites, inboxes={name: self.inboxes[name] for name in sites if name in self.inboxes})


@dataclass(frozen=True)
class SiteReport:
    """How a site's local work went. What is only in the sum (secure aggregation) or not told (differential privacy) is None.

    ``upload_bytes`` follows from the model and the way out alone. ``privacy`` is the site's statement of what it has spent. Neither a time
    nor a learning rate is told: both follow from the number of steps, and so tell how many images the site has.
    """

    site: str
    upload_bytes: int
    samples: int | None = None
    steps: int | None = None
    loss: float | None = None
    privacy: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Contribution:
    """A site's part of a round, or a sum of parts: the update, images seen, steps made, the sum of losses over images.

    ``clipped``: parameters beyond the range of secure aggregation. ``failed``: sites whose work could not be done, which add nothing else.
    """

    update: Update
    samples: int
    steps: int
    loss_sum: float
    clipped: int = 0
    failed: int = 0

    @classmethod
    def of_failure(cls, start: GlobalModel) -> Contribution:
        """That of a site whose loss is not finite, or that has a batch of one image where BatchNorm needs more."""
        return cls(Update(np.zeros_like(start.parameters), np.zeros_like(start.buffers), 0.0), 0, 0, 0.0, failed=1)

    def __iadd__(self, other: Contribution) -> Contribution:
        """The sum, in the memory of this one's vectors."""
        update = self.update
        update += other.update
        return Contribution(
            update,
            self.samples + other.samples,
            self.steps + other.steps,
            self.loss_sum + other.loss_sum,
            self.clipped + other.clipped,
            self.failed + other.failed,
        )

    def owned(self) -> Contribution:
        """This one, or a copy where its memory is read-only."""
        return replace(self, update=self.update.owned())

    def to_bytes(self) -> bytes:
        """For sealing."""
        numbers = {"weight": self.update.weight, "samples": self.samples, "steps": self.steps, "loss_sum": self.loss_sum}
        vectors = {"parameters": self.update.parameters, "buffers": self.update.buffers}
        return save(vectors, metadata={"numbers": json.dumps(numbers)})

    @classmethod
    def from_bytes(cls, data: bytes, spec: FlatSpec) -> Contribution:
        """Inverse of :meth:`to_bytes`.

        Raises:
            ProtocolError: not a contribution for a model of this ``spec``.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            numbers = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["numbers"])
            vectors = load(data)
            update = Update(vectors["parameters"], vectors["buffers"], float(numbers["weight"]))
            contribution = cls(update, int(numbers["samples"]), int(numbers["steps"]), float(numbers["loss_sum"]))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ProtocolError(f"a sealed update cannot be read: {error}") from None
        lengths = (update.parameters.shape, update.buffers.shape)
        if lengths != ((spec.parameter_count,), (spec.buffer_count,)):
            raise ProtocolError(f"a sealed update has vectors of {lengths[0]} and {lengths[1]} numbers, not those of the model")
        return contribution


@dataclass(frozen=True)
class HostResult:
    """What a host delivers of a round: one (partial or masked) sum over its sites, or one sealed contribution each."""

    total: Contribution | RingVector | None
    reports: tuple[SiteReport, ...]
    failures: tuple[SiteFailure, ...]
    sealed: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of_failures(cls, failures: tuple[SiteFailure, ...]) -> HostResult:
        """Of a host none of whose sites did what was asked."""
        return cls(None, (), failures)


@dataclass(frozen=True)
class HostEvaluation:
    """Summed evaluations of a host's sites, and the metrics of those that tell them."""

    total: Evaluation | RingVector | None
    delivered: tuple[str, ...]
    metrics: Mapping[str, Metrics]
    failures: tuple[SiteFailure, ...]

    @classmethod
    def of_failures(cls, failures: tuple[SiteFailure, ...]) -> HostEvaluation:
        """Of a host none of whose sites did what was asked."""
        return cls(None, (), {}, failures)


@dataclass(frozen=True)
class HostReply:
    """What each of a host's sites gave in a small step: joining, or one of secure aggregation."""

    values: Mapping[str, object]
    failures: tuple[SiteFailure, ...]

    @classmethod
    def of_failures(cls, failures: tuple[SiteFailure, ...]) -> HostReply:
        """Of a host none of whose sites did what was asked."""
        return cls({}, failures)


def seal_context(charter: Charter, task: RoundTask, sender: str) -> dict[str, object]:
    """What a sealed update is bound to."""
    where = {"federation": charter.settings.federation.identity, "run": charter.run, "round": task.round, "nonce": task.nonce}
    return where | {"purpose": "update", "sender": sender}
