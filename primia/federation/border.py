"""Everything that leaves a site, and how: the table that ``docs/border.md`` is made of.

A call of :class:`~primia.federation.site.host.SiteHost` returns plain data. Each field of each type in it is declared here, for each way in
which updates can leave. Tests walk the types and a run's real answers: a field that is new has no declaration, and fails them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from primia.data.statistics import PixelSums
from primia.federation.messages import (
    Contribution,
    HostEvaluation,
    HostFacts,
    HostReply,
    HostResult,
    SiteFailure,
    SiteReport,
    TrainingFacts,
)
from primia.federation.refusals import Kind
from primia.federation.update import Update
from primia.privacy.site import Statement
from primia.secagg.identity import PublicIdentity
from primia.secagg.messages import Advertisement, Shares
from primia.secagg.ring import Layout, RingVector
from primia.training.evaluation import Evaluation


class Way(Enum):
    """How a field leaves a site."""

    SUM = "sum only"
    SEALED = "sealed"
    CLEAR = "clear"
    PUBLIC = "public"
    FRESH = "keys"
    ABSENT = "absent"
    PARTS = "parts"


@dataclass(frozen=True)
class Crossing:
    """How a field leaves: under secure aggregation, sealed, and with neither.

    ``what`` it is, and for a public one why it may be. ``private``: what differs with differential privacy of images or patients.
    """

    secure: Way
    sealed: Way
    plain: Way
    what: str
    private: str = ""


def _all(way: Way, what: str, private: str = "") -> Crossing:
    return Crossing(way, way, way, what, private)


def _facts(what: str, private: str = "") -> Crossing:
    return Crossing(Way.SUM, Way.CLEAR, Way.CLEAR, what, private)


def _update(what: str, private: str = "") -> Crossing:
    return Crossing(Way.SUM, Way.SEALED, Way.CLEAR, what, private)


def _report(what: str, private: str = "") -> Crossing:
    return Crossing(Way.ABSENT, Way.CLEAR, Way.CLEAR, what, private)


def _metric(what: str) -> Crossing:
    return Crossing(Way.PUBLIC, Way.CLEAR, Way.CLEAR, f"{what}; with secure aggregation only where secure_aggregation.site_metrics = yes")


_PARTS = _all(Way.PARTS, "")
_NAME = _all(Way.PUBLIC, "names of sites, which the driver has given")
_KEYS = Crossing(Way.FRESH, Way.ABSENT, Way.ABSENT, "of one aggregation")
_SPENT = _all(Way.PUBLIC, "only with differential privacy: a setting, or what follows from settings")
_SPENT_UNITS = _all(Way.PUBLIC, "only with differential privacy, which takes the number of units, and what follows from it, as public")

REPLIES: Mapping[str, object] = {
    "join": PublicIdentity,
    "advertise": Advertisement,
    "share": Mapping[str, bytes],
    "confirm": bytes,
    "unmask": Shares,
    "statements": Statement,
}
"""What a :class:`HostReply` holds of each site, by call."""

FIELDS: Mapping[type, Mapping[str, Crossing]] = {
    HostFacts: {
        "total": Crossing(Way.SUM, Way.CLEAR, Way.CLEAR, "training facts, over the sites of a host"),
        "delivered": _NAME,
        "counts": _metric("images by class of validation and test splits, of training ones never under secure aggregation"),
        "failures": _PARTS,
    },
    TrainingFacts: {
        "class_counts": _facts("training images of each class", "absent"),
        "pixels": _PARTS,
        "steps": _facts("optimiser steps of a pass"),
        "images": _facts("training images", "units, taken as public"),
        "sites": _facts("one for a site that trains"),
    },
    PixelSums: {
        "count": _facts("pixels", "absent, or noised (privacy.statistics)"),
        "total": _facts("their sum by channel", "absent, or noised"),
        "squares": _facts("the sum of their squares by channel", "absent, or noised"),
    },
    HostResult: {
        "total": Crossing(Way.SUM, Way.ABSENT, Way.CLEAR, "contributions, over the sites of a host"),
        "reports": _PARTS,
        "failures": _PARTS,
        "sealed": Crossing(Way.ABSENT, Way.SEALED, Way.ABSENT, "a contribution each"),
    },
    Contribution: {
        "update": _PARTS,
        "samples": _update("images seen", "their expected number"),
        "steps": _update("optimiser steps made"),
        "loss_sum": _update("sum of losses over images", "absent"),
        "clipped": Crossing(Way.SUM, Way.ABSENT, Way.ABSENT, "changes of parameters beyond the range of masked ones", "of noised changes"),
        "failed": Crossing(Way.SUM, Way.ABSENT, Way.ABSENT, "sites whose work could not be done; in the sum, nobody learns which"),
    },
    Update: {
        "parameters": _update("change of the parameters, weighted", "clipped and noised"),
        "buffers": _update("BatchNorm moments, weighted", "absent: no BatchNorm"),
        "weight": _update("images, or 1 (federation.weighting)", "units, taken as public"),
    },
    SiteReport: {
        "site": _NAME,
        "upload_bytes": Crossing(
            Way.PUBLIC, Way.CLEAR, Way.PUBLIC, "by the model's layout alone; a sealed one also by the digits of its numbers"
        ),
        "samples": _report("images seen", "their expected number"),
        "steps": _report("optimiser steps made"),
        "loss": _report("mean loss", "absent"),
        "privacy": Crossing(Way.PARTS, Way.PARTS, Way.PARTS, "the site's statement", "absent without differential privacy"),
    },
    HostEvaluation: {
        "total": Crossing(Way.SUM, Way.CLEAR, Way.CLEAR, "evaluations, over the sites of a host"),
        "delivered": _NAME,
        "metrics": _PARTS,
        "failures": _PARTS,
    },
    Evaluation: {
        "confusion": _facts("counts by class and prediction"),
        "histograms": _facts("of scores"),
        "loss_sum": _facts("sum of losses over images"),
    },
    HostReply: {"values": _PARTS, "failures": _PARTS},
    SiteFailure: {
        "site": _NAME,
        "reason": _all(Way.PUBLIC, "the fixed words of its kind: no number, no name of a file"),
        "kind": _all(
            Way.PUBLIC,
            "one of a list. That a site fails at all can follow from its images (UNFIT, FAILED; NON_FINITE where nothing is masked): one "
            "bit for each call, which a site that does not answer cannot hide",
        ),
        "lost": _all(Way.PUBLIC, "the driver's own note that no answer came"),
        "counted": _all(Way.PUBLIC, "the driver's own note that the site had delivered before"),
    },
    PublicIdentity: {
        "name": _NAME,
        "document": _all(Way.FRESH, "public keys"),
    },
    Advertisement: {
        "identity": _PARTS,
        "mask_key": _KEYS,
        "commitment": _KEYS,
        "signature": _KEYS,
    },
    Shares: {"own_masks": _KEYS, "mask_keys": _KEYS},
    RingVector: {
        "layout": _PARTS,
        "data": Crossing(Way.SUM, Way.ABSENT, Way.ABSENT, "masked: uniformly random to whoever has not the masks of all sites"),
    },
    Layout: {
        "narrow": Crossing(Way.PUBLIC, Way.ABSENT, Way.ABSENT, "by the model's layout"),
        "wide": Crossing(Way.PUBLIC, Way.ABSENT, Way.ABSENT, "by the model's layout and the number of classes"),
    },
    Statement: {
        "unit": _SPENT,
        "epsilon": _SPENT_UNITS,
        "epsilon_all_runs": _SPENT_UNITS,
        "delta": _SPENT_UNITS,
        "accountant": _SPENT,
        "noise_multiplier": _SPENT_UNITS,
        "sample_rate": _SPENT_UNITS,
        "sampling": _SPENT_UNITS,
        "steps": _SPENT_UNITS,
        "clip": _SPENT,
        "views": _SPENT,
        "units": _SPENT_UNITS,
        "neighbours": _SPENT,
        "noisy_statistics": _SPENT,
        "epsilon_spent": _SPENT_UNITS,
    },
}

METRICS: Mapping[str, Crossing] = {
    "images": _metric("number of images"),
    "loss": _metric("mean loss"),
    "accuracy": _metric("metric"),
    "balanced_accuracy": _metric("metric"),
    "mcc": _metric("metric"),
    "roc_auc": _metric("metric"),
    "confusion": _metric("counts by class and prediction"),
    "per_class": _metric("precision, recall, F1 and number of images of each class"),
}
"""What a site tells of its validation and test images, by key."""

NATURE: Mapping[str, str] = {
    "when an answer comes": (
        "the driver measures it; how long a site works goes with its number of steps, so with its number of images. Nothing hides that"
    ),
    "which sites answer, and which take part": "the driver asks each by name",
    "which splits a site has": "they are in the driver's plan",
    "a site's number of training images, with differential privacy": "what is protected is what is on the images, not how many there are",
}
"""What a driver learns without being told."""

_TITLES = {
    HostFacts: "Before the first round: `facts`",
    TrainingFacts: "Training facts",
    PixelSums: "Pixel sums",
    HostResult: "A round: `train`",
    Contribution: "A site's contribution",
    Update: "An update",
    SiteReport: "A site's report",
    HostEvaluation: "Validation and test: `evaluate`",
    Evaluation: "An evaluation",
    HostReply: "Small steps: `join`, `advertise`, `share`, `confirm`, `unmask`, `statements`",
    SiteFailure: "A refusal or fault",
    PublicIdentity: "Public keys",
    Advertisement: "Keys for one aggregation",
    Shares: "Shares that open a sum",
    RingVector: "A masked vector",
    Layout: "Its layout",
    Statement: "A statement on privacy",
}

_INTRODUCTION = """\
# What leaves a site

<!-- Generated by `make docs` from primia/federation/border.py; do not edit. -->

Everything that a site's process returns to the driver, field by field, from the types of the messages themselves. Tests walk the types,
and the answers of whole runs (`tests/federation/test_border.py`): a field without a declaration fails them, and so does one that leaves
otherwise than is declared. On one cluster the boundary between sites is a simulation ([threat model](threat-model.md)); what is said here
is what the program sends.
"""

_FATE = """\
An error's words, its numbers, names of files and its traceback stay at the site, in `errors.log`, mode 0600: in the box of a site that has
one, else in the site's folder in the run folder. The driver gets a kind, in these fixed words:
"""

_DRAWS = """\
## Two runs of one seed

If the sites of two runs of one seed drew the same batches and augmentations, two runs one site apart would differ by exactly that site's
update, where normalisation does not depend on the others. So what sites draw (batches, augmentation, the rounding of masked updates)
follows from the run's identity as well, a random number that is made with the run folder and stands in its `summary.json` as `repeat`.
A resumed run draws what it would have drawn. `--set run.repeat=IDENTITY` makes the choices of that run again: whoever does so with one
site more or less opens that site's update, and no site can notice. Trials of a sweep have identities of their own, made of the sweep's
and their number. With differential privacy of images or patients, what is drawn is secret anyway. In `pooled` and `local` mode there is
no other site, and draws follow from `run.seed` alone.
"""


def border_markdown() -> str:
    """The whole page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield _INTRODUCTION
    yield from (f"- **{way.value}**: {text}" for way, text in _WAYS.items())
    yield "\nThe last column says what differs with differential privacy of images or patients; empty: nothing.\n"
    for type_, fields in FIELDS.items():
        yield f"## {_TITLES[type_]}\n"
        yield from _table(fields)
        if type_ is HostEvaluation:
            yield "`metrics`, of each site:\n"
            yield from _table(METRICS)
        if type_ is SiteFailure:
            yield _FATE
            yield from (f"- `{kind.name}`: {kind.value}" for kind in Kind)
            yield ""
    yield "## What a driver learns without being told\n"
    yield from (f"- {what}: {why}." for what, why in NATURE.items())
    yield f"\n{_DRAWS.rstrip()}"


_WAYS = {
    Way.SUM: "within a masked vector, which says nothing by itself; the driver can open sums over sites.",
    Way.SEALED: "for the driver alone, which sees it in clear.",
    Way.CLEAR: "as it is; added up where a host has several sites.",
    Way.PUBLIC: "as it is: it follows from settings, plan and model, or is public by declaration.",
    Way.FRESH: "public keys, signatures and sealed shares: random, made without the images.",
    Way.ABSENT: "not at all.",
    Way.PARTS: "what it consists of is declared by itself.",
}


def _table(fields: Mapping[str, Crossing]) -> Iterator[str]:
    yield "| field | secure aggregation | sealed | neither | what | with differential privacy |"
    yield "|---|---|---|---|---|---|"
    for name, crossing in fields.items():
        ways = " | ".join(way.value for way in (crossing.secure, crossing.sealed, crossing.plain))
        yield f"| `{name}` | {ways} | {crossing.what} | {crossing.private} |"
    yield ""
