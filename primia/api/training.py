"""Training from Python: settings in, a finished run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from primia.cluster.session import ClusterResources, ray_session
from primia.config.reader import differences
from primia.config.settings import Settings
from primia.data.federation import FederatedData, prepare
from primia.errors import ConfigError, PrimiaError, RunError
from primia.federation.checkpoint import Checkpoints
from primia.federation.events import Event, RunFinished
from primia.federation.plan import actor_count, plan_sites
from primia.federation.run_folder import RunFolder
from primia.federation.setup import RunSetup
from primia.report.page import write_report

if TYPE_CHECKING:
    from torch import nn

PackProgress = Callable[[str, int, int], None]
Listener = Callable[[Event], None]

_GROUP = "model.normalisation = group instead of batch: BatchNorm mixes the images of a batch, so none of them could be protected"
_DRY = "dry run on the mock halves: no patient's image is read, and the numbers mean nothing"


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
    settings = _resumed_settings(settings, Path(resume)) if resume else _resolved(given)
    replaced = () if resume or settings.model.normalisation == given.model.normalisation else (_GROUP,)
    _check_output(settings.run.output)
    data = run_data(settings, on_pack)
    data_seconds = perf_counter() - begun
    sites = plan_sites(data, settings.run)
    folder = _open(Path(resume).resolve(), data) if resume else _create(settings, data)

    def setup(device: str) -> RunSetup:
        return RunSetup(
            settings=settings,
            sites=sites,
            classes=data.classes,
            channels=data.channels,
            image_size=data.image_size,
            synthetic=data.synthetic,
            skipped=data.skipped,
            warnings=(*data.warnings, *replaced),
            device=device,
            folder=folder.path,
            started_at=started_at,
            data_seconds=data_seconds,
        )

    try:
        with ray_session(address, store_bytes=_store_bytes(len(sites))) as resources:
            _drive(setup, settings, resources, on_event or (lambda event: None))
    except BaseException:
        if not resume and not Checkpoints(folder.checkpoints, 1).rounds():
            folder.remove()
        raise
    write_report(folder.path)
    return Run(folder.path)


def _drive(setup: Callable[[str], RunSetup], settings: Settings, resources: ClusterResources, on_event: Listener) -> None:
    """Run the driver actor to its end; on Ctrl-C ask it to stop, let it flush its checkpoint, and raise again."""
    import ray

    from primia.federation.driver import FederationDriver
    from primia.federation.hosts import WorkerOptions

    device = _device(settings, resources)
    plan = setup(device)
    actors = actor_count(settings.resources.actors, len(plan.training_sites), resources.cpus)
    options = WorkerOptions(
        cpus=round(min(1.0, resources.cpus / actors) * 0.999, 3),
        gpus=round(min(1.0, resources.gpus / actors) * 0.999, 3) if device == "cuda" else 0.0,
        threads=settings.resources.threads or max(1, resources.cpus // actors),
    )
    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    driver: Any = (
        ray.remote(FederationDriver).options(num_cpus=0, max_concurrency=2, scheduling_strategy=node).remote(plan, actors, options)
    )
    events = driver.run.options(num_returns="streaming").remote()
    try:
        for reference in events:
            on_event(_event(reference))
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


def _device(settings: Settings, resources: ClusterResources) -> str:
    wanted = settings.resources.device
    if wanted == "cuda" and not resources.gpus:
        raise ConfigError("resources.device = cuda, but Ray finds no GPU; set it to auto or cpu")
    return "cuda" if resources.gpus and wanted != "cpu" else "cpu"


def _resolved(settings: Settings) -> Settings:
    """Settings with absolute paths and a name, as they are written into the run folder."""
    run = settings.run.model_copy(update={"output": settings.run.output.resolve(), "name": settings.run.name or _name(settings)})
    data = settings.data.model_copy(
        update={key: path.resolve() for key in ("path", "cache") if (path := getattr(settings.data, key)) is not None}
    )
    pretrained = settings.model.pretrained
    file = pretrained if pretrained in ("no", "imagenet") else str(Path(pretrained).resolve())
    model = settings.model.model_copy(update={"pretrained": file})
    if settings.privacy.is_on and model.normalisation == "batch":
        model = model.model_copy(update={"normalisation": "group"})
    return settings.model_copy(update={"run": run, "data": data, "model": model})


def _name(settings: Settings) -> str:
    data = settings.data
    what = data.path.name if data.source == "folder" and data.path else data.source
    mode = f"local-{settings.run.site}" if settings.run.mode == "local" else settings.run.mode
    return f"{what}-{settings.model.name}-{mode}-{datetime.now():%Y%m%d-%H%M%S}"


def _resumed_settings(given: Settings | None, path: Path) -> Settings:
    stored = RunFolder.open(path).settings()
    if given is not None:
        place = {"name": stored.run.name, "output": stored.run.output}
        changed = differences(stored, _resolved(given.model_copy(update={"run": given.run.model_copy(update=place)})))
        if changed:
            raise RunError(f"cannot resume {path} with other settings: {'; '.join(changed)}; leave them out, or start a new run")
    return stored


def run_data(settings: Settings, on_pack: PackProgress | None = None) -> FederatedData:
    """The shards of a run with these settings: those of the site boxes, or packed once from where its images are."""
    if settings.data.source == "boxes" and settings.data.path:
        from primia.federation.boxes import federated_data

        data = federated_data(settings.data.path, settings.run.dry_run)
        return replace(data, synthetic=True, warnings=(*data.warnings, _DRY)) if settings.run.dry_run else data
    return prepare(settings.data, settings.data.cache or settings.run.output / ".shards", on_pack)


def _check_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".primia-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to {output}: {error.strerror}; give another --output") from None


def _create(settings: Settings, data: FederatedData) -> RunFolder:
    return RunFolder.create(settings.run.output / settings.run.name, settings, data.fingerprint)


def _open(path: Path, data: FederatedData) -> RunFolder:
    folder = RunFolder.open(path)
    if folder.summary.exists():
        raise RunError(f"{path} is finished; see it with: primia-ray report {path}")
    if folder.fingerprint() != data.fingerprint:
        raise RunError(f"cannot resume {path}: the images have changed since it was started; start a new run")
    return folder


def _store_bytes(sites: int) -> int:
    """Room for the largest model we train (ResNet-18, 45 MB) ten times a node, and twice a site."""
    return (10 + 2 * sites) * 48 * 2**20
