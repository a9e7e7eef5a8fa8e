"""Site boxes on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from primia.cli.terminal import Terminal, headings

if TYPE_CHECKING:
    from rich.table import Table

    from primia.consent.audit_log import AuditEntry
    from primia.consent.box import SiteBox
    from primia.consent.budgets import Budget, Total
    from primia.consent.grants import Grant
    from primia.errors import ConsentError

KNOWN = ("federation", "run", "round", "images", "epsilon", "outcome")
"""Keys of an audit event in the order in which they are told; others follow."""


def show_boxes(boxes: Sequence[SiteBox]) -> None:
    """A table of boxes, from what is public in them and their grants."""
    from rich.console import Group
    from rich.table import Table

    from primia.consent.boxes import in_words, public_header

    table = Table("site", "fingerprint", "datasets", "granted to", title="site boxes")
    table.columns[1].no_wrap = True
    table.columns[3].overflow = "fold"
    kinds: dict[str, list[str]] = {}
    for box in boxes:
        granted = [grant.federation for grant in box.grants() if grant.state == "granted"]
        table.add_row(box.name, box.public.fingerprint, Group(*box.splits), Group(*granted or ["nobody"]))
        kinds.setdefault(in_words(public_header(box)), []).append(box.name)
    console = Terminal(soft_wrap=True)
    console.print(table)
    for words, sites in kinds.items():
        console.print(f"{', '.join(sites)}: {words}")


def show_box(box: SiteBox, last: int) -> None:
    """All of one box that its owner may want to know; the private halves are opened to count images by class.

    Raises:
        ConsentError: the audit log is not as it was written; told after all else is shown.
    """
    from primia.consent.budgets import totals

    console = Terminal(soft_wrap=True)
    console.print(f"site {box.name}, kept by {box.owner}, in {box.path}")
    console.print(f"fingerprint {box.public.fingerprint}")
    console.print(_datasets(box))
    log, broken = _log(box)
    refusals = _refusals(box)
    budgets = box.budgets()
    console.print(_grants(box.grants(), refusals, budgets) if box.grants() else "grants: none")
    for line in (*_terms(box), *map(_total, totals(budgets))):
        console.print(line)
    for reason in dict.fromkeys(refusals.values()):
        console.print(f"warning: {reason}", style="yellow")
    console.print(_peers(box) if box.peers() else "pinned keys of others: none")
    if broken:
        raise broken
    console.print(f"audit log: {len(log)} lines, verified; hash of the last: {log[-1].hash if log else 'none'}")
    for entry in log[len(log) - min(last, len(log)) :]:
        console.print(f"{entry.number:>5}  {entry.time[:19]}  {_event(entry.event)}")


def _datasets(box: SiteBox) -> Table:
    from rich.table import Table

    from primia.data.shard import Shard

    shards = {split: [Shard.open(box.shard(split, dry_run), box=box.path) for dry_run in (False, True)] for split in box.splits}
    classes = headings(shards[box.splits[0]][0].classes)
    table = Table("dataset", title="images by class, which the owner alone sees")
    for name in (*classes, "images", "patients", "in the mock half"):
        table.add_column(name, justify="right")
    for split, (private, mock) in shards.items():
        numbers = (*private.class_counts()[: len(classes)].tolist(), len(private), len(set(private.patients)), len(mock))
        table.add_row(split, *map(str, numbers))
    return table


def _log(box: SiteBox) -> tuple[Sequence[AuditEntry], ConsentError | None]:
    from primia.errors import ConsentError

    try:
        return box.audit_log(), None
    except ConsentError as error:
        return (), error


def _refusals(box: SiteBox) -> dict[str, str]:
    """Why federations with a grant are turned away nevertheless, as where a permission file was edited by hand."""
    from primia.errors import ConsentError

    found = {}
    for grant in box.grants():
        try:
            box.check_grant(grant.federation)
        except ConsentError as error:
            if grant.state == "granted":
                found[grant.federation] = str(error)
    return found


def terms(box: SiteBox, grant: Grant) -> str:
    """The terms of a grant in words."""
    from primia.privacy.delta import default_delta

    cap = "no cap on epsilon"
    if grant.max_epsilon is not None:
        delta = grant.delta or default_delta(box.units(grant.unit))
        cap = f"epsilon up to {grant.max_epsilon:g} over all its runs, at delta {delta:.2g} for each {grant.unit}"
    updates = {"secure": "updates masked only", "sealed": "updates masked or sealed", "any": "updates in clear too"}[grant.require]
    partners = f"masked sums with {', '.join(grant.partners) or 'any sites'}"
    keys = "keys believed at first contact" if grant.first_contact else "only those whose keys the owner has pinned"
    least = f", at least {grant.pinned} of them pinned" if grant.pinned else ""
    return f"{updates}, {cap}, {partners} ({keys}{least}), {f'until {grant.until}' if grant.until else 'until revoked'}"


def _terms(box: SiteBox) -> list[str]:
    return [f"{grant.federation}: {terms(box, grant)}" for grant in box.grants() if grant.state == "granted"]


def _total(total: Total) -> str:
    """What all federations together may spend and have spent, in one line."""
    spent = "not known" if total.spent is None else f"{total.spent:.3f}"
    worst = "is not bounded" if total.worst is None else f"may reach {total.worst:.4g}"
    return (
        f"all federations together, for each {total.unit}: epsilon spent {spent}, {worst}, at delta {total.delta:.2g} (epsilons and deltas "
        "added up; runs without differential privacy are not in it)"
    )


def _grants(grants: Sequence[Grant], refusals: Mapping[str, str], budgets: Sequence[Budget]) -> Table:
    from rich.table import Table

    table = Table("federation", "state", "since", "until", "epsilon up to", "spent", "requires", title="grants")
    table.columns[0].overflow = "fold"
    spent = {budget.federation: budget.spent for budget in budgets}
    for grant in grants:
        state = "refused, see below" if grant.federation in refusals else grant.state
        cap = "no cap" if grant.max_epsilon is None else f"{grant.max_epsilon:g}"
        used = spent[grant.federation]
        cells = (cap, "not known" if used is None else f"{used:.3f}" if used else "-", grant.require)
        table.add_row(grant.federation, state, (grant.revoked or grant.granted)[:10], str(grant.until or "-"), *cells)
    return table


def _peers(box: SiteBox) -> Table:
    from rich.table import Table

    from primia.secagg.identity import PublicIdentity

    table = Table("site", "fingerprint", "pinned", "by", title="pinned keys of others")
    table.columns[1].no_wrap = True
    for name, peer in sorted(box.peers().items()):
        table.add_row(name, PublicIdentity(name, peer.document).fingerprint, peer.pinned[:10], peer.by)
    return table


def _event(event: Mapping[str, Any]) -> str:
    """The purpose, then what else there is to say, the known keys first."""
    keys = [*(key for key in KNOWN if key in event), *(key for key in event if key not in KNOWN and key != "purpose")]
    said = [f"{key} {_cell(event[key])}" for key in keys if event[key] is not None]
    return f"{event.get('purpose', '')}: {', '.join(said)}"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_cell(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
