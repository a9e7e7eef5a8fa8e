"""A privacy audit: attacks on a finished run by its own data owners, and their results as one document."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal

from primia.audits.inversion import Effort
from primia.audits.membership_audit import MembershipAttack, MembershipAudit, attack_membership
from primia.audits.noise_level import noise_level
from primia.audits.one_run import OneRunAudit, audit_in_one_run
from primia.audits.reconstruction import ReconstructionAudit, reconstruct
from primia.audits.similarity import mean_similarity
from primia.audits.subject import Subject
from primia.errors import ConfigError

Part = Literal["inversion", "membership", "one-run"]
PARTS: tuple[Part, ...] = ("inversion", "membership", "one-run")
AuditProgress = Callable[[Part, int, int], None]

QUICK = Effort()
_FEWEST_CANARIES = 10


@dataclass(frozen=True)
class AuditOptions:
    """What is tried: training images to bring back, shadow models (even; 0: none), effort of each attack, seed, and which parts.

    ``canaries``: of each kind in the audit in one run, ``most_steps``: how many steps of the run's it makes at most.
    """

    images: int = 2
    shadows: int = 6
    effort: Effort = QUICK
    seed: int = 1
    parts: tuple[Part, ...] = PARTS
    canaries: int = 1000
    most_steps: int = 200

    @classmethod
    def of(
        cls, *, thorough: bool, images: int | None, shadows: int | None, seed: int, only: Part | None, canaries: int | None = None
    ) -> AuditOptions:
        """Options by the effort wanted; a number that is given counts as given.

        Raises:
            ConfigError: a number has no meaning.
        """
        base = THOROUGH if thorough else cls()
        images, shadows = (base.images if images is None else images), (base.shadows if shadows is None else shadows)
        canaries = base.canaries if canaries is None else canaries
        if images < 1:
            raise ConfigError(f"--images {images}: give at least 1, or leave that part out with --only membership")
        if canaries < _FEWEST_CANARIES:
            raise ConfigError(f"--canaries {canaries}: give at least {_FEWEST_CANARIES}; fewer prove nothing")
        if shadows < 0 or shadows % 2:
            raise ConfigError(
                f"--shadows {shadows}: every image is kept from half of the shadow models, so give an even number, or 0 for none"
            )
        return cls(images, shadows, base.effort, seed, (only,) if only else PARTS, canaries, base.most_steps)


THOROUGH = AuditOptions(images=6, shadows=32, effort=Effort(iterations=3000, restarts=2), canaries=4000, most_steps=2000)


@dataclass(frozen=True, eq=False)
class Audit:
    """The results; a part that was left out is None."""

    subject: Subject
    options: AuditOptions
    inversion: ReconstructionAudit | None
    membership: MembershipAudit | None
    one_run: OneRunAudit | None
    seconds: dict[str, float]

    def document(self) -> dict[str, Any]:
        """All numbers as plain values for JSON; no pictures."""
        return {
            "run": self.subject.name,
            "seed": self.options.seed,
            "seconds": self.seconds,
            "inversion": _inversion_document(self.subject, self.inversion) if self.inversion else None,
            "membership": _membership_document(self.membership) if self.membership else None,
            "one_run": _one_run_document(self.one_run) if self.one_run else None,
        }


def run_audit(subject: Subject, options: AuditOptions, on_progress: AuditProgress) -> Audit:
    """Attack the run; ``on_progress`` is called as (part, done, total)."""
    seconds: dict[str, float] = {}
    inversion = membership = one_run = None
    if "inversion" in options.parts:
        begun = perf_counter()
        inversion = _invert(subject, options, lambda done, total: on_progress("inversion", done, total))
        seconds["inversion"] = perf_counter() - begun
    if "membership" in options.parts:
        begun = perf_counter()
        membership = _attack_membership(subject, options, lambda done, total: on_progress("membership", done, total))
        seconds["membership"] = perf_counter() - begun
    if "one-run" in options.parts and (stated := subject.stated):
        begun = perf_counter()
        one_run = audit_in_one_run(
            subject,
            stated,
            canaries=options.canaries,
            most_steps=options.most_steps,
            seed=options.seed,
            on_progress=lambda done, total: on_progress("one-run", done, total),
        )
        seconds["one-run"] = perf_counter() - begun
    return Audit(subject, options, inversion, membership, one_run, seconds)


def _invert(subject: Subject, options: AuditOptions, on_progress: Callable[[int, int], None]) -> ReconstructionAudit:
    return reconstruct(
        subject,
        images=options.images,
        noise=noise_level(subject),
        effort=options.effort,
        seed=options.seed,
        threads=os.cpu_count() or 1,
        on_progress=on_progress,
    )


def _attack_membership(subject: Subject, options: AuditOptions, on_progress: Callable[[int, int], None]) -> MembershipAudit:
    return attack_membership(subject, shadows=options.shadows, seed=options.seed, threads=os.cpu_count() or 1, on_progress=on_progress)


def _inversion_document(subject: Subject, audit: ReconstructionAudit) -> dict[str, Any]:
    classes = subject.card.classes
    return {
        "images": [{"site": original.site, "class": classes[original.label]} for original in audit.originals],
        "effort": asdict(audit.effort),
        "noise": asdict(audit.noise),
        "sites_in_sum": audit.parties,
        "unrelated": asdict(audit.unrelated),
        "line_up": audit.line_up,
        "results": [
            {
                "network": network,
                "protection": protection,
                "mean": asdict(mean_similarity([result.similarity for result in results])),
                "identified": sum(result.identified for result in results),
                "by_image": [
                    asdict(result.similarity)
                    | {"identified": result.identified, "inferred_class": classes[result.label] if result.label is not None else None}
                    for result in results
                ],
            }
            for network in audit.networks
            for protection in audit.protections
            if (results := audit.select(network, protection))
        ],
    }


def _membership_document(audit: MembershipAudit) -> dict[str, Any]:
    return {
        "members": audit.members,
        "non_members": audit.others,
        "shadows": audit.shadows,
        "epochs": audit.epochs,
        "accountant": asdict(audit.budget) if audit.budget else None,
        "epsilon_lower_bound": audit.proven.epsilon,
        "attacks": [_attack_document(attack) for attack in audit.attacks],
    }


def _one_run_document(audit: OneRunAudit) -> dict[str, Any]:
    stated = audit.stated
    return {
        "site": stated.site,
        "unit": stated.unit,
        "mechanism": asdict(stated.mechanism),
        "views": stated.views,
        "accountant": stated.accountant,
        "delta": stated.delta,
        "steps": audit.steps,
        "steps_of_run": stated.steps,
        "epsilon_stated": audit.epsilon,
        "epsilon_proven": audit.proven.epsilon,
        "is_refuted": audit.is_refuted,
        "bounds": {kind: asdict(bound) for kind, bound in audit.bounds.items()},
    }


def _attack_document(attack: MembershipAttack) -> dict[str, Any]:
    return {
        "name": attack.name,
        "auc": attack.area,
        "auc_interval": list(attack.interval),
        "tpr_at_fpr": {str(rate): value for rate, value in attack.true_positives_at.items()},
        "epsilon_bound": asdict(attack.bound),
        "roc": {"fpr": attack.roc.false_positive_rate.tolist(), "tpr": attack.roc.true_positive_rate.tolist()},
    }
