"""A sweep: hospital actors started once, trials by Ray Tune on them, and the sweep folder that comes of it."""

from __future__ import annotations

import random  # noqa: TID251  # Ray's, which needs a seed
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from primia.cluster.session import set_environment
from primia.config.settings import SearchSettings
from primia.errors import PrimiaError
from primia.federation.driver.actors import ActorPool, check_nodes
from primia.search.plan import SweepPlan
from primia.search.records import TrialRecord
from primia.search.tune.callback import OnProgress, SweepWatch
from primia.search.tune.schedulers import build_scheduler
from primia.search.tune.searcher import SweepSearcher
from primia.search.tune.study import SweepStudy
from primia.search.tune.trainable import ASSIGNMENT, FederatedTrial, trial_name
from primia.search.tune.warm_start import Known

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
}
"""Ray Tune neither prints, nor logs, nor catches Ctrl-C, nor saves its own state: the sweep folder has all.

It gives a trial that is to end a minute; one that takes longer is as if it were interrupted.
"""

_HARDLY_ANYTHING = 0.001

_DEATHS = 2
"""Times that a trial whose process died is started again, from its last round."""


@dataclass(frozen=True)
class Outcome:
    """What is known of all trials, and why the sweep ended before its last one (empty where it did not)."""

    records: Mapping[int, TrialRecord]
    reason: str


def run_sweep(plan: SweepPlan, records: Sequence[TrialRecord], known: Sequence[Known], on_progress: OnProgress) -> Outcome:
    """Run a sweep to its end, or on from ``records``; inside a Ray session. ``known``: points known from the start.

    Raises:
        ClusterError: the sites' actors do not start.
        KeyboardInterrupt: what is on record by then can be gone on with.
    """
    space, search = plan.space, plan.space.base.search
    scratch = tempfile.TemporaryDirectory(prefix="primia-tune-")
    watch = SweepWatch(plan.folder, search, {record.number: record for record in records}, on_progress)
    with set_environment(_QUIET), _seeded(search.seed), scratch as state, closing(watch), _pool(plan) as pool:
        # Trials begin while the sites' actors start, and wait for them; that they do start is seen to beside.
        watch.enough.unless_up(pool.wait if pool else list)
        plan = replace(plan, actors=pool.actors) if pool else plan
        trainable = tune.with_resources(tune.with_parameters(FederatedTrial, plan=plan), _resources(plan))
        # Not a Tuner: that pickles all it is given, at once and into a file, for a way of resuming that is not used here.
        tune.run(
            trainable,
            name="tune",
            storage_path=state,
            scheduler=build_scheduler(space),
            **_supply(SweepSearcher(SweepStudy(space, known), records, search.trials, plan.replicas), search),
            callbacks=[watch],
            stop=watch.enough,
            max_failures=_DEATHS,
            raise_on_failed_trial=False,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            verbose=0,
        )
        watch.enough.raise_failure()
    return Outcome(watch.records, watch.enough.reason)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's own generator, by which Ray's populations choose whom to follow, and afterwards its state from before."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _supply(searcher: SweepSearcher, search: SearchSettings) -> dict[str, Any]:
    """Where Ray gets its trials from: one by one from the searcher, or for population based training all at once."""
    if search.scheduler != "pbt":
        return {"search_alg": searcher, "num_samples": search.trials, "max_concurrent_trials": search.max_concurrent}
    # A population waits for its last member, so the resources alone say how many train at the same time.
    population = [config[ASSIGNMENT] for number in range(search.trials) if isinstance(config := searcher.suggest(str(number)), dict)]
    return {"config": {ASSIGNMENT: tune.grid_search(population)}}


@contextmanager
def _pool(plan: SweepPlan) -> Iterator[ActorPool | None]:
    """The sites' actors for all trials; None where each trial needs its own."""
    if plan.actors is None:
        yield None
        return
    pool = ActorPool(plan.actors, f"{plan.space.base.run.name}-{secrets.token_hex(4)}", plan.replicas)
    try:
        yield pool
    finally:
        pool.close()


def _resources(plan: SweepPlan) -> Any:
    """A trial's own process, on this node and without a CPU; with actors of its own a placement group that holds these too."""
    search = plan.space.base.search
    process = {_this_node(): 1 / search.max_concurrent if search.scheduler == "pbt" else _HARDLY_ANYTHING}
    if plan.actors:
        return tune.PlacementGroupFactory([process])

    def group(config: Mapping[str, Any]) -> Any:
        try:
            actors = plan.own_actors(plan.settings("", config[ASSIGNMENT]["parameters"]))
            check_nodes(actors)
        except PrimiaError:
            return tune.PlacementGroupFactory([process])  # the trial meets the same error, and tells it
        share = {"CPU": actors.options.cpus, "GPU": actors.options.gpus}
        return tune.PlacementGroupFactory([process, *({name: part for name, part in share.items() if part} for _ in actors.hosts)])

    return group


def _this_node() -> str:
    """The resource that only this node has: trials write into the sweep folder, which lies here."""
    here = ray.get_runtime_context().get_node_id()
    offers: dict[str, float] = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)  # type: ignore[no-untyped-call]
    return next(name for name in offers if name.startswith("node:") and not name.startswith("node:__"))


def _name(trial: Any) -> str:
    return trial_name(trial.config[ASSIGNMENT]["number"])
