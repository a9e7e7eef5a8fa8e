"""``primia-ray audit``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from primia.cli.terminal import Terminal
from primia.cli.terminal import bars as progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from primia.audits.audit import Audit
    from primia.audits.membership_audit import MembershipAudit
    from primia.audits.one_run import OneRunAudit
    from primia.audits.reconstruction import ReconstructionAudit

_TASKS = {"inversion": "bringing images back", "membership": "training shadow models", "one-run": "training with canaries"}
_INTERRUPTED = 130


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run; its images must be readable.")],
    images: Annotated[int | None, typer.Option(help="Training images to bring back from updates; 2 where it is not given.")] = None,
    shadows: Annotated[int | None, typer.Option(help="Shadow models for membership inference, even; 0: none; 6 where not given.")] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="More images, shadow models and iterations; takes an hour or so.")] = False,
    only: Annotated[Literal["inversion", "membership", "one-run"] | None, typer.Option(help="One part only.")] = None,
    canaries: Annotated[
        int | None, typer.Option(help="Canaries of each kind in the audit in one run of a private run; 1000 where not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice in the audit.")] = 1,
) -> None:
    """Attack a run as its data owners: do images come back, does the model show who was trained on, does epsilon hold?

    Writes audit.html, which shows training images, and audit.json into the run folder.

    Example: primia-ray audit runs/first
    """
    from primia import api

    console = Terminal()
    with progress_bars(console, elapsed=True) as progress:
        bars = {part: progress.add_task(words, total=None) for part, words in _TASKS.items() if only in (None, part)}

        def show(part: str, at: int, total: int) -> None:
            progress.update(bars[part], completed=at, total=total)

        try:
            done = api.audit(
                run, only=only, images=images, shadows=shadows, canaries=canaries, thorough=thorough, seed=seed, on_progress=show
            )
        except KeyboardInterrupt:
            _stop()
    _show(console, done, run / "audit.html")


def _stop() -> NoReturn:
    """End at once: attacks that are under way on other threads cannot be told to, and nothing has been written yet."""
    typer.echo("stopped; nothing was written", err=True)
    os._exit(_INTERRUPTED)


def _show(console: Terminal, done: Audit, page: Path) -> None:
    from primia.audits.page import compare_bound, headlines

    if done.inversion:
        console.print(_inversion_table(done.inversion))
    if done.membership:
        console.print(_membership_table(done.membership))
    if done.one_run:
        console.print(_one_run_table(done.one_run))
    for line in (*headlines(done), *([compare_bound(done.membership)] if done.membership else [])):
        console.print(line)
    console.say(f"wrote  {page}     shows training images: keep it where they may be kept")
    console.say(f"next   {_advice(done)}")


def _inversion_table(audit: ReconstructionAudit) -> Table:
    from rich.table import Table

    from primia.audits.page import outcomes

    table = Table(title="images brought back from updates", title_justify="left")
    for name in ("network", "what is seen", "SSIM", "PSNR", "picked out"):
        in_words = name in ("network", "what is seen")
        table.add_column(name, justify="left" if in_words else "right", no_wrap=not in_words)
    rows = outcomes(audit)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        numbers = f"{row.similarity.ssim:.3f}", f"{row.similarity.psnr:.1f} dB", f"{row.identified} of {row.images}"
        table.add_row(row.network, row.protection, *numbers, end_section=following is None or following.network != row.network)
    table.add_row("chance", "other images", f"{audit.unrelated.ssim:.3f}", f"{audit.unrelated.psnr:.1f} dB", "")
    return table


def _membership_table(audit: MembershipAudit) -> Table:
    from rich.table import Table

    table = Table(title="who was trained on", title_justify="left")
    for name in ("attack", "AUC", "95 % interval", "TPR at FPR 1 %", "0.1 %", "epsilon"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for attack in audit.attacks:
        low, high = attack.interval
        rates = (f"{rate:.1%}" for rate in attack.true_positives_at.values())
        table.add_row(attack.name, f"{attack.area:.3f}", f"{low:.3f} - {high:.3f}", *rates, f">= {attack.bound.epsilon:.2f}")
    return table


def _one_run_table(audit: OneRunAudit) -> Table:
    from rich.table import Table

    table = Table(title="canaries in one run of the mechanism", title_justify="left")
    for name in ("canaries", "number", "guesses", "right", "epsilon"):
        table.add_column(name, justify="left" if name == "canaries" else "right")
    for kind, bound in audit.bounds.items():
        table.add_row(kind, str(bound.canaries), str(bound.guesses), str(bound.correct), f">= {bound.epsilon:.2f}")
    table.add_row(f"accountant ({audit.stated.accountant})", "", "", "", f"<= {audit.epsilon:.2f}")
    return table


def _advice(done: Audit) -> str:
    settings = done.subject.settings
    if settings.privacy.unit == "none":
        private = "--set privacy.unit=image --set privacy.target_epsilon=8 --set model.normalisation=weight"
        return f"primia-ray train {private}     train with differential privacy, and audit that run too"
    return f"primia-ray audit {done.subject.path} --thorough     tries harder; docs/audits.md says what it means"
