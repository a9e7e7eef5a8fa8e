"""What a run can say of privacy: who saw what, what each site has spent, and a paragraph for a paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from primia.config.settings import Settings
from primia.federation.driver.checkpoint import RunState
from primia.federation.driver.prepare import Prepared
from primia.federation.run_spec import RunSetup
from primia.privacy.site import Statement
from primia.privacy.statement import paragraph
from primia.runs.rounds import ALL_SITES
from primia.secagg.graph import accomplices, degree

_SECURE = (
    "Updates were aggregated securely (Bonawitz et al., 2017{graph}): each site masked its update{more}, so that a driver that follows the "
    "protocol learned sums of updates over the sites of a round only, never over fewer than {fewest}. {colluding}"
)
_GRAPH = "; Bell et al., 2020, on a random graph"
_COLLUDING = "This holds as long as fewer than {bound} of a round's sites tell the driver what they know."
_ALONE = "With two sites, each can compute the other's update from the sum, so this holds as long as neither tells the driver."
_SEALED = "Each site's update was sealed for the driver, which saw it in clear; nobody else did."
_OPEN = "The driver saw each site's update in clear, or the sum over the sites of one machine."
_TOGETHER = "All images were in one place; nothing was hidden from whoever ran the training."
_NO_DP = (
    "No differential privacy was used: the models, which are not hidden, may tell whether an image was trained on, and in the worst case "
    "what is on it."
)


def privacy_summary(setup: RunSetup, prepared: Prepared, state: RunState) -> dict[str, object]:
    """The section ``privacy`` of ``summary.json``."""
    charter, settings = prepared.session.charter, setup.settings
    sites = {name: dict(statement) for name, statement in sorted(state.progress.privacy.items())}
    if prepared.private_sites:
        sites = {ALL_SITES: asdict(prepared.private_sites.statement())}
    return {
        "unit": settings.privacy.unit,
        "secure_aggregation": charter.is_secure,
        "sealed": charter.is_sealed,
        "chooses_model": settings.privacy.chooses_model,
        "sites": sites,
        "statement": _statement(
            settings, sites, state.progress.fewest, len(charter.training), is_secure=charter.is_secure, is_sealed=charter.is_sealed
        ),
    }


def _statement(
    settings: Settings, sites: Mapping[str, Mapping[str, object]], fewest: int, most: int, *, is_secure: bool, is_sealed: bool
) -> str:
    """``fewest``: sites of the smallest sum; ``most``: that can have been in one."""
    if settings.run.mode != "federated":
        seen = _TOGETHER
    else:
        seen = _secure(settings, fewest, most) if is_secure else _SEALED if is_sealed else _OPEN
    if not sites:
        return f"{seen} {_NO_DP}"
    statements = [Statement(**fields) for fields in sites.values()]  # type: ignore[arg-type]
    return f"{paragraph(statements, secure_aggregation=is_secure, pretrained=settings.model.pretrained)} {seen}"


def _secure(settings: Settings, fewest: int, most: int) -> str:
    """Of the smallest sum's s sites, s - 1 know the last one's part by subtraction; an aggregation can have begun with more sites."""
    aggregation = settings.secure_aggregation
    begun = range(fewest, max(fewest, most) + 1)
    bound = min(fewest - 1, *(accomplices(aggregation.threshold, sites, aggregation.neighbours) for sites in begun))
    more = "" if settings.privacy.is_on else ", its number of images and its loss"
    colluding = _COLLUDING.format(bound=bound) if bound > 1 else _ALONE
    graph = _GRAPH if degree(begun[-1], aggregation.neighbours) < begun[-1] - 1 else ""
    return _SECURE.format(graph=graph, more=more, fewest=fewest, colluding=colluding)
