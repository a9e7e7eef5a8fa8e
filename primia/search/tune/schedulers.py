"""Who ends trials early: Ray Tune's schedulers, on validation MCC by the part of its rounds that a trial has done."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from primia.search.space.space import Space
from primia.search.tune.population import Population
from primia.search.tune.trainable import MCC, PERCENT

_WHOLE = 100  # percent
_FEWEST = 3  # trials whose median says something


def build_scheduler(space: Space) -> TrialScheduler:
    """The scheduler that ``[search]`` asks for.

    Rungs and intervals count in per cent of a trial's own rounds, so that trials with other numbers of rounds compare at the same share
    of their work.
    """
    search = space.base.search
    grace = max(1, round(_WHOLE * search.grace))
    common: dict[str, Any] = {"time_attr": PERCENT, "metric": MCC, "mode": "max"}
    if search.scheduler == "asha":
        return ASHAScheduler(**common, max_t=_WHOLE, grace_period=grace, reduction_factor=search.reduction)
    if search.scheduler == "median":
        # A time slice without end: it would pause a trial to let another begin, and a pause ends a trial here.
        return MedianStoppingRule(**common, grace_period=grace, min_samples_required=_FEWEST, min_time_slice=math.inf)  # type: ignore[arg-type]
    if search.scheduler == "pbt":
        return Population(space, **common, perturbation_interval=grace)
    return FIFOScheduler()  # type: ignore[no-untyped-call]
