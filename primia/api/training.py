"""Training from Python: settings in, a finished run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from primia.api.preparation import check_output, in_place_of, resolved, same_images, store_bytes
from primia.api.site_words import SiteWords
from primia.cluster.session import ClusterResources, ray_session
from primia.config.reader import differences
from primia.config.settings import Settings
from primia.data.prepare import FederatedData
from primia.errors import PrimiaError, RunError
from primia.federation.data import PackProgress, data_of, new_data
from primia.federation.driver.checkpoint import Checkpoints
from primia.federation.events import Event, RunFinished
from primia.federation.run_spec import RunSetup
from primia.runs.folder import RunFolder
from primia.search.folder import SweepFolder

if TYPE_CHECKING:
    from torch import nn

Listener = Callable[[Event], None]

_GROUP = "model.normalisation = group instead of batch: BatchNorm mixes the images of a batch, so none of them could be protected"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what is in it."""

    path: Path

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json`` as a dict."""
        return RunFolder(self.path).read_summary()

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return RunFolder(self.path).settings()

    def model(self) -> nn.Module:
        """The best model by validation MCC, in evaluation mode."""
        from primia.models.file import load_model

        return load_model(self.path)[0]


def train(
    settings: Settings | None = None,
    *,
    resume: Path | str | None = None,
    address: str | None = None,
    on_event: Listener | None = None,
    on_pack: PackProgress | None = None,
) -> Run:
    """Train a federation (or its pooled or local counterpart) and return the finished run.

    Args:
        settings: what to run; None: the built-in demonstration, or with ``resume`` the settings of that run.
        resume: folder of an interrupted run to go on with, from its last whole checkpoint.
        address: a running Ray cluster; None: a local one for the length of the call.
        on_event: called with every event of the run.
        on_pack: called as (what, done, total) while images are packed into shards.

    Raises:
        PrimiaError: one of its subclasses, with one line that says what is wrong and what to do.
        KeyboardInterrupt: after the run was stopped cleanly; go on with ``resume``.
    """
    started_at, begun = time(), perf_counter()
    given = settings or Settings()
    if resume:
        path = Path(resume).resolve()
        settings, data = _resumed(path, settings, on_pack)
    else:
        settings, data = _new(given, on_pack)
        path = settings.run.output / settings.run.name
    replaced = () if resume or settings.model.normalisation == given.model.normalisation else (_GROUP,)
    data_seconds = perf_counter() - begun
    setup = RunSetup.of(settings, data, path, started_at=started_at, data_seconds=data_seconds, notices=replaced)
    folder = RunFolder(path) if resume else RunFolder.create(path, settings, data.fingerprint)
    try:
        with ray_session(address, store_bytes=store_bytes(len(data.sites))) as resources:
            folder.reopen()
            _drive(setup, resources, on_event or (lambda event: None))
    except BaseException:
        if not resume and not Checkpoints(folder.checkpoints, 1).rounds():
            folder.remove()
        raise
    from primia.report.page import write_report

    write_report(folder.path)
    return Run(folder.path)


def _drive(setup: RunSetup, resources: ClusterResources, on_event: Listener) -> None:
    """Run the driver actor to its end; on Ctrl-C ask it to stop, let it flush its checkpoint, and raise again."""
    import ray

    from primia.federation.driver.actor import FederationDriver
    from primia.federation.driver.actors import device_of, plan_actors

    wanted = setup.settings.resources
    actors = plan_actors(wanted, setup.sites, resources.cpus, resources.gpus)
    setup = replace(setup, device=device_of(wanted, resources.gpus))
    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    driver: Any = ray.remote(FederationDriver).options(num_cpus=0, max_concurrency=2, scheduling_strategy=node).remote(setup, actors)
    events = driver.run.options(num_returns="streaming").remote()
    words = SiteWords(setup)
    try:
        for reference in events:
            on_event(words.complete(_event(reference)))
    except PrimiaError:
        for event in words.rest():
            on_event(event)
        raise
    except KeyboardInterrupt:
        # Whatever goes wrong while a run is stopped, the user asked for the stop.
        with suppress(Exception):
            _stop(driver, events, on_event)
        raise


def _stop(driver: Any, events: Iterator[Any], on_event: Listener) -> None:
    driver.stop.remote()
    for reference in events:
        event = _event(reference)
        if isinstance(event, RunFinished):
            on_event(event)


def _event(reference: Any) -> Event:
    import ray

    try:
        event: Event = ray.get(reference)
    except PrimiaError as error:
        raise (getattr(error, "cause", None) or error) from None
    except ray.exceptions.RayActorError as error:
        raise RunError(f"the driver actor died: {str(error).strip().splitlines()[-1]}; go on with --resume") from error
    return event


def _new(given: Settings, on_pack: PackProgress | None) -> tuple[Settings, FederatedData]:
    settings = resolved(given)
    check_output(settings.run.output)
    return settings, new_data(settings, on_pack)


def _resumed(path: Path, given: Settings | None, on_pack: PackProgress | None) -> tuple[Settings, FederatedData]:
    """Settings and images of a run that goes on, which somebody else may have begun: nothing is written unless all fits."""
    settings = _resumed_settings(given, path)
    folder = RunFolder(path)
    if folder.summary.exists() and folder.status() != "pruned":
        raise RunError(f"{path} is finished; see it with: primia-ray report {path}")
    sweep = path.parent.parent
    if settings.privacy.is_on and SweepFolder.is_sweep(sweep):
        raise RunError(f"cannot resume {path} alone: what it spends is accounted for in its sweep; {SweepFolder(sweep).resume_command}")
    cache = resolved(given).data.cache if given else None
    return settings, data_of(folder, same_images(folder, "run"), cache=cache, on_pack=on_pack)


def _resumed_settings(given: Settings | None, path: Path) -> Settings:
    if SweepFolder.is_sweep(path):
        raise RunError(f"{path} is a sweep, not a run; go on with: {SweepFolder(path).resume_command}")
    stored = RunFolder.open(path).settings()
    if given is not None:
        changed = differences(stored, resolved(in_place_of(stored, given)))
        if changed:
            raise RunError(f"cannot resume {path} with other settings: {'; '.join(changed)}; leave them out, or start a new run")
    return stored
