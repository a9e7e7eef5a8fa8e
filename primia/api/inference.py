"""Prediction from Python, in the clear and under encryption."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from primia import errors
from primia.api.training import Run
from primia.errors import RunError
from primia.files import atomic_bytes
from primia.runs.folder import RunFolder

if TYPE_CHECKING:
    from primia.inference.predictions import Predictions

_INFERENCE_STORE_BYTES = 4 * 2**30
"""Room for the keys of the few images that are under way."""


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
    opened = RunFolder.open(folder)
    if options.address is None:
        _check_inputs(folder, fields.get("data"))
    spec = InferenceSpec(
        run=folder,
        inference=opened.settings(options.overrides).inference,
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
