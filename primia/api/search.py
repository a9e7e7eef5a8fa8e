"""Searching for settings from Python: settings with a space in, a sweep folder out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from primia.api.preparation import check_output, in_place_of, resolved, same_images, store_bytes
from primia.cluster.session import ClusterResources, ray_session
from primia.config.reader import differences, dump_config
from primia.config.settings import Settings
from primia.data.prepare import FederatedData
from primia.errors import PrimiaError, RunError
from primia.federation.data import PackProgress, data_of, new_data
from primia.files import atomic_text
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord
from primia.search.space.demo import with_demo_space
from primia.search.space.space import Space
from primia.search.tune.warm_start import dump_known, known_from_start, read_known

if TYPE_CHECKING:  # Ray
    from primia.search.tune.callback import SweepProgress

_MAY_CHANGE = ("trials", "time_limit", "target", "max_concurrent", "replicas", "max_epsilon")
"""Keys of [search] that a resumed sweep may be given anew: they change no trial that there is."""


@dataclass(frozen=True)
class Sweep:
    """A sweep: its folder and what is in it."""

    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        """``sweep.json`` as a dict."""
        return SweepFolder(self.path).read_summary()

    @property
    def records(self) -> list[TrialRecord]:
        """All trials."""
        return SweepFolder(self.path).records()


@dataclass(frozen=True)
class SweepStart:
    """What is known before the first trial: the folder, the space, what is to be said, and the cluster."""

    folder: Path
    space: Space
    notices: tuple[str, ...]
    cluster: ClusterResources


def tune(
    settings: Settings | None = None,
    *,
    resume: Path | str | None = None,
    address: str | None = None,
    dashboard: bool = False,
    on_start: Callable[[SweepStart], None] | None = None,
    on_progress: Callable[[SweepProgress], None] | None = None,
    on_pack: PackProgress | None = None,
) -> Sweep:
    """Search for settings of a federation, and return the finished sweep.

    Args:
        settings: base and space (``[search]``); None: a small space over the built-in demonstration, or with ``resume`` the settings of
            that sweep. A resumed sweep may be given other limits (trials, time, target, concurrency, epsilon) and nothing else.
        resume: folder of a sweep to go on with: unfinished trials go on from their last round.
        address: a running Ray cluster; None: a local one for the length of the call.
        dashboard: also start Ray's dashboard, on a local cluster.
        on_start: called once, when all is checked and the cluster is up.
        on_progress: called several times a second with a :class:`~primia.search.tune.callback.SweepProgress`.
        on_pack: called as (what, done, total) while images are packed into shards.

    Raises:
        PrimiaError: one of its subclasses, with one line that says what is wrong and what to do.
        KeyboardInterrupt: what is on record can be gone on with by ``resume``.
    """
    begun = perf_counter()
    settings = _resumed_settings(settings, Path(resume)) if resume else resolved(with_demo_space(settings or Settings()))
    space = Space.of(settings)
    known, notices = ([], []) if resume else known_from_start(space)
    if resume:
        folder = SweepFolder.open(Path(resume).resolve())
        data = _data_of(folder, settings, space, on_pack)
        known = read_known(folder.known, space)
    else:
        check_output(settings.run.output)
        data = None if space.needs_own_actors else new_data(settings, on_pack)
        folder = _created(settings, data, dump_known(known))
    records = folder.records()
    earlier_s: float | None = None  # until the sweep begins, an earlier part's results stay as they are

    def finish(status: str, rows: Iterable[TrialRecord], reason: str = "") -> None:
        from primia.search.results import write_results  # not before: it takes a while to load

        write_results(folder, space, rows, status, reason, (earlier_s or 0.0) + perf_counter() - begun)

    try:
        with ray_session(
            address, store_bytes=store_bytes(len(data.sites) if data else settings.data.sites), dashboard=dashboard
        ) as cluster:
            from primia.search.plan import SweepPlan
            from primia.search.tune.run import run_sweep

            plan = SweepPlan.of(folder, space, data, cluster.cpus, cluster.gpus)
            atomic_text(folder.config, dump_config(settings))
            earlier_s = folder.begin(settings.search)
            if on_start:
                on_start(SweepStart(folder.path, space, tuple(notices), cluster))
            outcome = run_sweep(plan, records, known, on_progress or (lambda progress: None))
    except BaseException as error:
        rows = folder.records()
        if earlier_s is not None and (rows or isinstance(error, KeyboardInterrupt)):
            finish("interrupted", rows, str(error) if isinstance(error, PrimiaError) else "")
        elif not resume:
            folder.remove()
        raise
    finish("stopped" if outcome.reason else "complete", outcome.records.values(), outcome.reason)
    return Sweep(folder.path)


def _resumed_settings(given: Settings | None, path: Path) -> Settings:
    """What the sweep was started with, and the caller's limits and cache: shards are not packed where a stranger's settings say."""
    stored = SweepFolder.open(path).settings()
    cache = None
    if given is not None:
        cache = resolved(given).data.cache
        given = resolved(with_demo_space(in_place_of(stored, given)))
        limits = {key: getattr(given.search, key) for key in _MAY_CHANGE}
        stored = stored.model_copy(update={"search": stored.search.model_copy(update=limits)})
        if changed := differences(stored, given):
            raise RunError(f"cannot resume {path} with other settings: {'; '.join(changed)}; leave them out, or start a new sweep")
    return stored.model_copy(update={"data": stored.data.model_copy(update={"cache": cache})})


def _created(settings: Settings, data: FederatedData | None, known: str) -> SweepFolder:
    return SweepFolder.create(settings.run.output / settings.run.name, settings, data.fingerprint if data else "", known)


def _data_of(folder: SweepFolder, settings: Settings, space: Space, on_pack: PackProgress | None) -> FederatedData | None:
    """The images of a sweep that goes on, which somebody else may have begun; None where each trial has its own."""
    check = same_images(folder, "sweep")
    over = sum(record.state is not State.RUNNING for record in folder.records())
    if folder.result().status == "complete" and over >= settings.search.trials:
        more = f"{folder.resume_command} --trials {over + 10}"
        raise RunError(f"{folder.path} is complete: all {over} trials are over; go on with more: {more}")
    if space.needs_own_actors:
        check("")
        return None
    return data_of(folder, check, cache=settings.data.cache, on_pack=on_pack)
