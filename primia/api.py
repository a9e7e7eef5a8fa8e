"""The library's front door: train, evaluate and predict from Python; the command line is a thin shell around it."""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Literal

from primia import errors
from primia.cluster.session import ClusterResources, ray_session
from primia.config.reader import differences, load_config
from primia.config.settings import Settings
from primia.data.federation import FederatedData, prepare, prepare_evaluation
from primia.errors import ConfigError, PrimiaError, RunError
from primia.federation.checkpoint import Checkpoints
from primia.federation.events import Event, RunFinished
from primia.federation.plan import actor_count, plan_sites
from primia.federation.run_folder import RunFolder
from primia.federation.setup import RunSetup
from primia.files import atomic_bytes
from primia.report.page import write_report

if TYPE_CHECKING:
    from torch import nn

    from primia.inference.predictions import Predictions

PackProgress = Callable[[str, int, int], None]
Listener = Callable[[Event], None]

_INFERENCE_STORE_BYTES = 4 * 2**30
"""Room for the keys of the few images that are under way."""

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
    data = _data(settings, on_pack)
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


def evaluate(run: Run | Path | str, data: Path | str, *, on_bad_image: Literal["error", "skip"] = "error") -> dict[str, Any]:
    """Metrics of a run's model on labelled images: over all of them, and under ``sites`` for each site where there are several.

    ``data``: class folders named as the model's classes, or any layout that ``train`` takes; where it has a test
    split, that is used. Images are packed into a temporary folder, one pass, nothing is kept.

    Raises:
        ModelError, DataError: one line that says what does not fit.
    """
    from primia.data.shard import Shard
    from primia.models.file import load_model
    from primia.training.evaluation import evaluate_model

    folder = run.path if isinstance(run, Run) else Path(run)
    model, card = load_model(folder)
    with tempfile.TemporaryDirectory(prefix="primia-") as cache:
        images = prepare_evaluation(
            Path(data),
            classes=card.classes,
            channels=card.channels,
            image_size=card.image_size,
            cache=Path(cache),
            on_bad_image=on_bad_image,
        )
        sites = {
            site.name: evaluate_model(model, Shard.open(site.test), card.normalisation, len(card.classes))
            for site in images.sites
            if site.test
        }
    first, *rest = sites.values()
    results: dict[str, Any] = sum(rest, start=first).metrics(card.classes) | {
        "run": str(folder),
        "data": str(data),
        "skipped": list(images.skipped),
    }
    if len(sites) > 1:
        results["sites"] = {name: evaluation.metrics(card.classes) for name, evaluation in sites.items()}
    return results


def infer(
    run: Run | Path | str,
    data: Path | str,
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """What a run's model says of each image at ``data``, in the order of file names.

    Images that cannot be read are named with the reason, the rest go on.

    Args:
        run: a run, or its folder.
        data: a flat folder of images, class folders named as the model's classes, or one image file.
        output: a .csv, .json or .parquet file to write; checked before any work.
        overwrite: replace ``output`` where it exists.
        batch_size: images that go through the network together.
        on_progress: called as (images done, images in all).

    Raises:
        ConfigError, DataError, ModelError, RunError: one line that says what does not fit.
    """
    from primia.inference.images import find_images
    from primia.inference.output import check_output, write_predictions
    from primia.inference.plain import plain_outputs
    from primia.inference.predictions import Predictions
    from primia.models.file import load_model

    if output:
        check_output(Path(output), overwrite=overwrite)
    begun, folder = perf_counter(), run.path if isinstance(run, Run) else Path(run)
    model, card = load_model(folder)
    images = find_images(Path(data), classes=card.classes, channels=card.channels, image_size=card.image_size)
    outputs = plain_outputs(model, card.normalisation, images, len(card.classes), batch_size=batch_size, on_progress=on_progress)
    about = {"run": str(folder), "data": str(data), "synthetic": card.synthetic, "seconds": perf_counter() - begun}
    predictions = Predictions.from_logits(images, card.classes, *outputs, about=about)
    if output:
        write_predictions(predictions, Path(output))
    return predictions


@dataclass(frozen=True)
class EncryptedOptions:
    """How encrypted inference is run.

    Attributes:
        calibration: images of the model owner's own, in any layout that ``infer`` takes; None: the run's validation images.
        keys: folder of keys made ahead of time, one subfolder a party; they are used where it is given.
        resume: go on with an inference that broke off.
        address: job API of a running Ray cluster (http://HOST:8265); None: a local one for the length of the call.
        overrides: ``inference.key=value`` on top of the run's settings.
    """

    calibration: Path | None = None
    keys: Path | None = None
    resume: bool = False
    address: str | None = None
    overrides: Sequence[str] = ()


def infer_encrypted(
    run: Run | Path | str,
    data: Path | str,
    *,
    output: Path | str,
    overwrite: bool = False,
    options: EncryptedOptions = EncryptedOptions(),  # frozen
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Predict under encryption: the model owner sees no image and no prediction, the data owner no weight, the dealer neither.

    Runs as a Ray job of three actors; the data owner writes ``output`` as :func:`infer` does. Returns the summary, with costs under
    ``encrypted``. ``on_event`` gets ``plan`` and ``progress`` as they happen.

    Raises:
        PrimiaError: one line that says what does not fit, or which party failed; then go on with ``resume``.
    """
    from primia.inference.output import check_output
    from primia.inference.service import Mode

    target = Path(output).resolve()
    check_output(target, overwrite=overwrite)
    mode = Mode.CONSUME if options.keys else Mode.STREAM
    done = _run_inference_job(run, options, on_event, mode=mode, data=Path(data).resolve(), output=target, resume=options.resume)
    for name, content in done["files"].items():
        atomic_bytes(target.with_name(name), base64.b64decode(content))
    summary: dict[str, Any] = done["summary"]
    return summary


def prepare_keys(
    run: Run | Path | str,
    images: int,
    *,
    keys: Path | str,
    options: EncryptedOptions = EncryptedOptions(),  # frozen
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Make keys for so many images ahead of time, into ``keys``; events and errors as :func:`infer_encrypted`."""
    from primia.inference.service import Mode

    with_keys = replace(options, keys=Path(keys))
    summary: dict[str, Any] = _run_inference_job(run, with_keys, on_event, mode=Mode.PREPARE, preprocess=images)["summary"]
    return summary


def agreement(run: Run | Path | str, data: Path | str, output: Path | str) -> dict[str, Any]:
    """How far predictions in the file ``output`` agree with the model in the clear on the same images."""
    from primia.inference.output import read_table

    plain = {row.file: row for row in infer(run, data).rows if row.status == "ok"}
    rows = [row for row in read_table(Path(output)) if row["status"] == "ok" and row["file"] in plain]
    same, largest = 0, 0.0
    for row in rows:
        expected = plain[str(row["file"])]
        same += row["predicted"] == expected.predicted
        scores = [value for name, value in row.items() if name.startswith("p_")]
        largest = max([largest, *(abs(float(a or 0.0) - b) for a, b in zip(scores, expected.probabilities or (), strict=True))])
    return {"images": len(rows), "same_class": same, "largest_difference": largest}


def _run_inference_job(
    run: Run | Path | str, options: EncryptedOptions, on_event: Callable[[dict[str, Any]], None] | None, **fields: Any
) -> dict[str, Any]:
    from primia.cluster.head import local_head
    from primia.cluster.jobs import run_job
    from primia.inference.spec import InferenceSpec

    folder = (run.path if isinstance(run, Run) else Path(run)).resolve()
    RunFolder.open(folder)
    if options.address is None:
        _check_inputs(folder, fields.get("data"))
    spec = InferenceSpec(
        run=folder,
        inference=load_config(folder / "config.ini", options.overrides).inference,
        threads=os.cpu_count() or 1,
        calibration=options.calibration.resolve() if options.calibration else None,
        keys=options.keys.resolve() if options.keys else None,
        fetch=options.address is not None,
        **fields,
    )
    events = _JobEvents(on_event or (lambda event: None))
    command = ["-m", "primia.inference.job", spec.model_dump_json()]
    if options.address:
        run_job(["python", *command], address=options.address, on_line=events.line)
    else:
        with local_head(store_bytes=_INFERENCE_STORE_BYTES) as head:
            run_job([sys.executable, *command], address=head.dashboard_url, environment=head.environment, on_line=events.line)
    return events.result()


def _check_inputs(run: Path, data: Path | None) -> None:
    """Raise what the parties would raise half a minute later, where run and images lie on this machine."""
    from primia.inference.images import find_images
    from primia.models.file import load_model

    card = load_model(run)[1]
    if data:
        find_images(data, classes=card.classes, channels=card.channels, image_size=card.image_size)


class _JobEvents:
    """The job's lines: events go on to the listener, the last one is the result."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._last: dict[str, Any] = {}

    def line(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if isinstance(event, dict) and "event" in event:
            self._last = event
            self._on_event(event)

    def result(self) -> dict[str, Any]:
        if self._last.get("event") == "error":
            raise getattr(errors, self._last["kind"], RunError)(self._last["message"])
        if self._last.get("event") != "done":
            raise RunError("the inference job ended without a result; see its log in Ray's dashboard")
        return self._last


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


def _data(settings: Settings, on_pack: PackProgress | None) -> FederatedData:
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
