"""What a run can say of privacy: who saw what, what each site has spent, and a paragraph for a paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from primia.config.settings import Settings
from primia.federation.history import ALL_SITES
from primia.federation.setup import Prepared, RunSetup
from primia.privacy.site import Statement
from primia.privacy.statement import paragraph
from primia.secagg.graph import degree, needed

_SECURE = (
    "Updates were aggregated securely (Bonawitz et al., 2017; Bell et al., 2020): each site masked its update, its number of images and "
    "its loss, so that the driver, and anybody who reads along, learned their sums over the sites of a round only. This holds if, of the "
    "{group} sites in a site's group, fewer than {needed} tell the driver what they know, and {active} where the driver deviates from the "
    "protocol."
)
_SEALED = "Each site's update was sealed for the driver, which saw it in clear; nobody else did."
_OPEN = "The driver saw each site's update in clear, or the sum over the sites of one machine."
_TOGETHER = "All images were in one place; nothing was hidden from whoever ran the training."
_NO_DP = (
    "No differential privacy was used: the models, which are not hidden, may tell whether an image was trained on, and in the worst case "
    "what is on it."
)


def privacy_summary(setup: RunSetup, prepared: Prepared, spent: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The section ``privacy`` of ``summary.json``; ``spent``: each site's last statement."""
    charter, settings = prepared.session.charter, setup.settings
    sites = {name: dict(statement) for name, statement in sorted(spent.items())}
    if prepared.private_sites:
        sites = {ALL_SITES: asdict(prepared.private_sites.statement())}
    return {
        "unit": settings.privacy.unit,
        "secure_aggregation": charter.is_secure,
        "sealed": charter.is_sealed,
        "sites": sites,
        "statement": _statement(settings, sites, len(setup.training_sites), is_secure=charter.is_secure, is_sealed=charter.is_sealed),
    }


def _statement(
    settings: Settings, sites: Mapping[str, Mapping[str, object]], training_sites: int, *, is_secure: bool, is_sealed: bool
) -> str:
    if settings.run.mode != "federated":
        seen = _TOGETHER
    else:
        seen = _secure(settings, training_sites) if is_secure else _SEALED if is_sealed else _OPEN
    if not sites:
        return f"{seen} {_NO_DP}"
    statements = [Statement(**fields) for fields in sites.values()]  # type: ignore[arg-type]
    return f"{paragraph(statements, secure_aggregation=is_secure)} {seen}"


def _secure(settings: Settings, training_sites: int) -> str:
    """With t shares needed in a group of g, both kinds of one site's shares take 2 t, of which a colluding site has two and others one."""
    aggregation = settings.secure_aggregation
    group = degree(settings.federation.sites_per_round or training_sites, aggregation.neighbours) + 1
    least = needed(aggregation.threshold, group)
    colluding = 2 * least - group
    return _SECURE.format(group=group, needed=least, active=f"fewer than {colluding}" if colluding > 1 else "none")
