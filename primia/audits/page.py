"""``audit.html`` and ``audit.json``: what the attacks on a run brought to light, in pictures, numbers and plain words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.audits.audit import Audit
from primia.audits.figures import membership_curves, picture_source
from primia.audits.membership_audit import MembershipAudit
from primia.audits.reconstruction import Network, Protection, Reconstruction, ReconstructionAudit
from primia.audits.similarity import Similarity, mean_similarity
from primia.files import atomic_text
from primia.privacy.rounding import lower, upper
from primia.report.html import image_source, render

NETWORKS: dict[Network, str] = {
    "first": "run's network, untrained",
    "best": "run's network, trained",
    "open": "easier network, untrained",
}
PROTECTIONS: dict[Protection, str] = {
    "none": "no protection",
    "masked": "secure aggregation: one site",
    "sum": "secure aggregation: sum",
    "noised": "differential privacy",
}
_STEPS = {"image": "steps", "patient": "steps", "site": "rounds"}


@dataclass(frozen=True)
class Cell:
    """One reconstruction as the page shows it."""

    protection: str
    picture: str
    similarity: Similarity
    identified: bool


@dataclass(frozen=True)
class ReconstructionRow:
    """One original and what came back of it under each protection."""

    site: str
    label: str
    original: str
    cells: list[Cell]


@dataclass(frozen=True)
class Outcome:
    """All images of one network and protection together."""

    network: str
    protection: str
    similarity: Similarity
    identified: int
    images: int


def write_audit(audit: Audit) -> Path:
    """Write ``audit.html`` and ``audit.json`` into the run folder, readable by their owner alone, and return the page's path.

    Raises:
        RunError: the folder cannot be written.
    """
    page = audit.subject.path / "audit.html"
    atomic_text(audit.subject.path / "audit.json", json.dumps(audit.document(), indent=1, allow_nan=False) + "\n")
    atomic_text(page, render_audit(audit))
    return page


def render_audit(audit: Audit) -> str:
    """The page as text."""
    inversion, membership, subject = audit.inversion, audit.membership, audit.subject
    return render(
        "audit.html",
        name=subject.name,
        seed=audit.options.seed,
        synthetic=subject.card.synthetic,
        headlines=headlines(audit),
        inversion=inversion,
        image_groups=_image_groups(inversion, subject.card.classes) if inversion else [],
        outcomes=outcomes(inversion) if inversion else [],
        membership=membership,
        curves=image_source(membership_curves(membership)) if membership else "",
        comparison=compare_bound(membership) if membership else "",
        one_run=audit.one_run,
        one_run_line=one_run_line(audit),
        seconds=audit.seconds,
    )


def headlines(audit: Audit) -> list[str]:
    """What was found, a sentence or two for each part."""
    found = []
    if audit.inversion:
        found.append(_inversion_headline(audit.inversion))
    if audit.membership:
        found.append(_membership_headline(audit.membership))
    if line := one_run_line(audit):
        found.append(line)
    return found


def outcomes(audit: ReconstructionAudit) -> list[Outcome]:
    """Means over the images, by network and protection."""
    groups = [(network, protection, audit.select(network, protection)) for network in audit.networks for protection in audit.protections]
    return [_outcome(NETWORKS[network], PROTECTIONS[protection], results) for network, protection, results in groups]


def compare_bound(audit: MembershipAudit) -> str:
    """The proven bound beside the accountant's, in words."""
    least, delta = lower(audit.proven.epsilon), upper(audit.proven.delta)
    if audit.budget is None:
        return (
            f"The attacks prove that epsilon is at least {least} (at delta {delta}). This run was not trained with differential privacy, "
            "so there is no upper bound to hold that against."
        )
    most = upper(audit.budget.epsilon)
    if audit.proven.epsilon <= audit.budget.epsilon:
        return (
            f"The attacks prove that epsilon is at least {least}; the accountant says that it is at most {most} (both at delta {delta}). "
            "The two agree. The true value lies between them."
        )
    return (
        f"The attacks prove that epsilon is at least {least}, but the accountant says at most {most} (both at delta {delta}). Both cannot "
        "hold: do not rely on this run's guarantee before the cause is known."
    )


def one_run_line(audit: Audit) -> str:
    """What guessing the canaries proves beside what is stated, in words; empty where that part was not asked for."""
    if "one-run" not in audit.options.parts:
        return ""
    if audit.one_run is None:
        return "This run was not trained with differential privacy, so there is no mechanism for an audit in one run to test."
    found, stated = audit.one_run, audit.one_run.stated
    steps = "" if found.steps == stated.steps else f" for the first {found.steps} of {stated.steps} {_STEPS[stated.unit]}"
    line = (
        f"Guessing canaries in one run of this mechanism proves that epsilon is at least {lower(found.proven.epsilon)}; stated is at most "
        f"{upper(found.epsilon)}{steps} (both at delta {upper(stated.delta)})."
    )
    if found.is_refuted:
        return f"ERROR: {line} Both cannot hold: do not rely on this run's guarantee before the cause is known."
    return f"{line} The two agree."


def _inversion_headline(audit: ReconstructionAudit) -> str:
    """Counts by the network that gave most away."""
    images = len(audit.originals)
    back = {protection: max(_identified(audit, network, protection) for network in audit.networks) for protection in audit.protections}
    line = (
        f"Without protection, {back['none']} of {images} training images came back so well that they can be picked out of "
        f"{audit.line_up + 1}. Behind the mask of secure aggregation it was {back['masked']} of {images}, behind differential privacy "
        f"{back['noised']} of {images}."
    )
    if "sum" not in back:
        return line
    shown = f"From the sum over {audit.parties} sites with one image each, which secure aggregation does show,"
    return f"{line} {shown} it was {back['sum']} of {images}."


def _membership_headline(audit: MembershipAudit) -> str:
    best = max(audit.attacks, key=lambda attack: attack.interval[0])
    low, high = best.interval
    if low <= 0.5:
        return "From the trained model, the attacks could not tell training images from others better than by guessing."
    return (
        f"From the trained model, the best attack ({best.name}) tells training images from others with an area under the curve of "
        f"{best.area:.3f} (95 % interval {low:.3f} to {high:.3f}; guessing has 0.5)."
    )


def _identified(audit: ReconstructionAudit, network: Network, protection: Protection) -> int:
    return sum(result.identified for result in audit.select(network, protection))


def _outcome(network: str, protection: str, results: Sequence[Reconstruction]) -> Outcome:
    likeness = mean_similarity([result.similarity for result in results])
    return Outcome(network, protection, likeness, sum(result.identified for result in results), len(results))


def _image_groups(audit: ReconstructionAudit, classes: Sequence[str]) -> list[tuple[str, list[ReconstructionRow]]]:
    """The rows of each network."""
    return [(NETWORKS[network], _rows(audit, network, classes)) for network in audit.networks]


def _rows(audit: ReconstructionAudit, network: Network, classes: Sequence[str]) -> list[ReconstructionRow]:
    columns = [audit.select(network, protection) for protection in audit.protections]
    return [
        ReconstructionRow(
            original.site, classes[original.label], picture_source(original.picture), [_cell(column[number]) for column in columns]
        )
        for number, original in enumerate(audit.originals)
    ]


def _cell(result: Reconstruction) -> Cell:
    return Cell(PROTECTIONS[result.protection], picture_source(result.picture), result.similarity, result.identified)
