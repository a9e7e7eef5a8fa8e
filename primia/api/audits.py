"""Audits from Python: a run attacked by its data owners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from primia.api.training import Run
from primia.federation.data import data_of
from primia.runs.folder import RunFolder

if TYPE_CHECKING:
    from primia.audits.audit import Audit, AuditOptions
    from primia.audits.subject import Subject


def audit(
    run: Run | Path | str,
    *,
    only: Literal["inversion", "membership", "one-run"] | None = None,
    images: int | None = None,
    shadows: int | None = None,
    canaries: int | None = None,
    thorough: bool = False,
    seed: int = 1,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Audit:
    """Attack a run: do images come back, does the model show who was trained on, does epsilon hold?

    Writes ``audit.html``, which shows training images, and ``audit.json`` into the run folder. The private halves of site boxes are
    opened only where every owner's grant for the run's federation holds, and after their audit logs say so.

    Args:
        run: a finished run, or its folder; its images must be readable.
        only: one part only.
        images: training images to bring back from updates.
        shadows: shadow models for membership inference, even; 0: none.
        canaries: of each kind in the audit in one run, which a run with differential privacy gets.
        thorough: more of all.
        seed: of every random choice.
        on_progress: called as (part, done, total).

    Raises:
        PrimiaError: one line that says what does not fit.
    """
    from primia.audits.audit import AuditOptions, run_audit
    from primia.audits.page import write_audit
    from primia.audits.subject import Subject

    folder = run.path if isinstance(run, Run) else Path(run)
    options = AuditOptions.of(thorough=thorough, images=images, shadows=shadows, seed=seed, only=only, canaries=canaries)
    subject = Subject.open(folder, lambda settings, check: data_of(RunFolder(folder), check))
    _admit(subject, options)
    done = run_audit(subject, options, on_progress or (lambda part, at, total: None))
    write_audit(done)
    return done


def _admit(subject: Subject, options: AuditOptions) -> None:
    """Read each owner's grant, and write the audit into each box's log; no log tells of an audit that an owner has refused."""
    from primia.consent.box import SiteBox

    if subject.settings.run.dry_run:
        return
    federation = subject.settings.federation.identity
    boxes = [SiteBox.open(site.box) for site in subject.data.sites if site.box]
    for box in boxes:
        box.check_grant(federation)
    event = {"purpose": "audit", "federation": federation, "run": subject.name, "attacks": " and ".join(options.parts)}
    for box in boxes:
        box.audit(event)
