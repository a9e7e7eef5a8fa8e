"""The data owner's way through its images: decoded, asked for batch by batch, and written down as they come."""

from __future__ import annotations

import json
import os
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from primia.data.decode import BadImage
from primia.data.statistics import Normalisation
from primia.errors import ProtocolError, RunError
from primia.files import atomic_text, open_to_append, private_folder
from primia.inference.images import InferenceImages, find_images
from primia.inference.model import PublicCard
from primia.inference.output import write_predictions
from primia.inference.plain import Progress
from primia.inference.predictions import Failure, Predictions
from primia.inference.service import BatchResult, DataOwnerService, Mode
from primia.mpc.compiler import encode_images
from primia.mpc.messages import Phase, Role
from primia.mpc.program import Program
from primia.mpc.ring import Ring
from primia.training.images import as_unit, normalise_

Outcome = NDArray[np.float64] | Failure
"""An image's outputs, or why it has none."""

_BATCH_KEY_BYTES = 2**28
_LARGEST_BATCH = 64


def batch_size(program: Program) -> int:
    """Images a batch: as many as keep its keys near 256 MB, since small networks spend their time on exchanges."""
    return int(np.clip(_BATCH_KEY_BYTES // max(1, program.costs().key_bytes), 1, _LARGEST_BATCH))


class Journal:
    """Outputs so far, a line an image, so that an inference that broke off redoes only what is missing; for this user alone."""

    def __init__(self, path: Path, about: dict[str, str], *, resume: bool) -> None:
        self.path = path
        self.done: dict[str, Outcome] = {}
        if resume and path.exists():
            self._read(about)
        else:
            private_folder(path.parent)
            atomic_text(path, json.dumps(about) + "\n")

    def add(self, name: str, outcome: Outcome) -> None:
        """Write down what became of an image."""
        values: Any = list(outcome) if isinstance(outcome, Failure) else outcome.tolist()
        with open_to_append(self.path) as file:
            file.write(json.dumps([name, values]) + "\n")

    def remove(self) -> None:
        """All is done."""
        self.path.unlink(missing_ok=True)

    def _read(self, about: dict[str, str]) -> None:
        first, *lines = self.path.read_text().split("\n")
        if first != json.dumps(about):
            raise RunError(f"cannot resume: {self.path} is of another run or other images; remove it, or leave --resume out")
        for line in lines[:-1]:
            name, values = json.loads(line)
            self.done[name] = Failure(*values) if isinstance(values[0], str) else np.array(values)
        if lines and lines[-1]:  # cut short
            os.truncate(self.path, self.path.stat().st_size - len(lines[-1].encode()))


@dataclass
class Measures:
    """What each batch took."""

    images: list[int] = field(default_factory=list)
    online_s: list[float] = field(default_factory=list)
    preprocessing_s: list[float] = field(default_factory=list)

    def add(self, images: int, result: BatchResult) -> None:
        """Count a batch."""
        self.images.append(images)
        self.online_s.append(result.online_s)
        self.preprocessing_s.append(result.preprocessing_s)


class Lead:
    """Gets the outputs of all images from a service that has started."""

    def __init__(
        self,
        service: DataOwnerService,
        mode: Mode,
        images: InferenceImages,
        normalisation: Normalisation,
        journal: Journal,
        report: Progress,
    ) -> None:
        self.measures = Measures()
        self._settled = 0
        self.failures: dict[int, Failure] = {}
        self._service = service
        self._images = images
        self._normalisation = normalisation
        self._journal = journal
        self._report = report
        self._ready = deque(service.stored().ready()) if mode is Mode.CONSUME else None
        self._size = batch_size(service.program)
        classes = service.program.layers[-1].shape[0]
        self.logits = np.full((len(images), classes), np.nan, np.float32)

    def run(self) -> None:
        """Fill :attr:`logits` and :attr:`failures`.

        Raises:
            ProtocolError: a party failed, or there are too few keys.
        """
        numbers = {name: index for index, name in enumerate(self._images.names)}
        for name in self._journal.done.keys() & numbers:
            self._settle(numbers[name], self._journal.done[name], known=True)
        missing = deque(index for name, index in numbers.items() if name not in self._journal.done)
        again: deque[int] = deque()
        waiting: deque[tuple[list[int], Future[BatchResult]]] = deque()
        self._check_keys(len(missing))
        while missing or again or waiting:
            self._report(self._settled, len(self._images))
            keys_left = self._ready is None or self._ready or not waiting
            if (missing or again) and keys_left and len(waiting) <= self._service.options.pipeline:
                self._ask(*((missing, self._size) if missing else (again, 1)), waiting)
            else:
                indices, future = waiting.popleft()
                again.extend(self._take(indices, future.result()))
        self._report(self._settled, len(self._images))

    def _ask(self, wanted: deque[int], size: int, waiting: deque[tuple[list[int], Future[BatchResult]]]) -> None:
        """Ask for a batch of the next images that can be read, if there are any."""
        if self._ready is None:
            indices, pixels = self._gather(wanted, size)
            if indices:
                waiting.append((indices, self._service.request(self._encoded(pixels))))
            return
        if not self._ready:
            raise ProtocolError("no keys are left; make more with --preprocess N, then go on with --resume")
        batch = self._ready[0]
        indices, pixels = self._gather(wanted, min(size, batch.images))
        if indices:
            self._ready.popleft()
            blank = [np.zeros_like(pixels[0])] * (batch.images - len(pixels))
            waiting.append((indices, self._service.submit(batch.batch, self._encoded(pixels + blank))))

    def _encoded(self, pixels: list[NDArray[np.uint8]]) -> Ring:
        images = normalise_(as_unit(torch.from_numpy(np.stack(pixels))), self._normalisation)
        return encode_images(self._service.program, images.numpy())

    def _gather(self, missing: deque[int], size: int) -> tuple[list[int], list[NDArray[np.uint8]]]:
        indices: list[int] = []
        pixels: list[NDArray[np.uint8]] = []
        while missing and len(indices) < size:
            index = missing.popleft()
            try:
                pixels.append(self._images.read(index))
                indices.append(index)
            except BadImage as error:
                self._settle(index, Failure("unreadable", error.reason))
        return indices, pixels

    def _take(self, indices: list[int], batch: BatchResult) -> list[int]:
        """Settle a batch; which image left the range is only known of one alone, so others are asked for again by themselves."""
        self.measures.add(len(indices), batch)
        layer = batch.result.out_of_range
        if layer and len(indices) > 1:
            return indices
        for place, index in enumerate(indices):
            reason = f"values left the calibrated range in layer {layer}; calibrate with images like this one (--calibration)"
            self._settle(index, Failure("out of range", reason) if layer else batch.result.outputs[place])
        return []

    def _settle(self, index: int, outcome: Outcome, *, known: bool = False) -> None:
        self._settled += 1
        if isinstance(outcome, Failure):
            self.failures[index] = outcome
        else:
            self.logits[index] = outcome
        if not known:
            self._journal.add(self._images.names[index], outcome)

    def _check_keys(self, wanted: int) -> None:
        if self._ready is not None and (kept := sum(batch.images for batch in self._ready)) < wanted:
            raise ProtocolError(f"keys for {kept} images are left, and {wanted} are wanted; make more with --preprocess {wanted - kept}")


def prepare_keys(service: DataOwnerService, images: int, report: Progress) -> None:
    """Have keys for ``images`` made and put away by both parties."""
    size, waiting, asked, done = batch_size(service.program), deque[tuple[int, Future[None]]](), 0, 0
    while done < images:
        report(done, images)
        if asked < images and len(waiting) <= service.options.pipeline:
            count = min(size, images - asked)
            waiting.append((count, service.prepare_keys(count)))
            asked += count
        else:
            count, future = waiting.popleft()
            future.result()
            done += count
    report(done, images)


@dataclass(frozen=True)
class Inference:
    """What the data owner wants."""

    data: Path
    output: Path
    journal: Path
    resume: bool = False
    run: str = ""

    @classmethod
    def beside(cls, data: Path, output: Path, *, resume: bool) -> Inference:
        """With the journal beside the output."""
        return cls(data, output, output.with_name(f".{output.name}.partial"), resume)


def infer_images(service: DataOwnerService, mode: Mode, wanted: Inference, report: Progress, begun: float) -> Predictions:
    """Lead an inference from its start to the end, and write the predictions.

    Raises:
        ProtocolError: a party failed; what was done is in the journal.
    """
    with service.telling((Role.MODEL_OWNER, Role.DEALER)):
        program = service.start(mode)
        setup_s = perf_counter() - begun
        card = PublicCard.from_program(program)
        images = find_images(wanted.data, classes=card.classes, channels=card.channels, image_size=card.image_size)
        journal = Journal(wanted.journal, {"plan": program.fingerprint, "data": str(wanted.data)}, resume=wanted.resume)
        lead = Lead(service, mode, images, card.normalisation, journal, report)
        lead.run()
        service.finish()
    about = {
        "run": wanted.run or card.run,
        "data": str(wanted.data),
        "synthetic": card.synthetic,
        "seconds": perf_counter() - begun,
        "setup_seconds": setup_s,
        "encrypted": _costs(lead.measures, service),
    }
    predictions = Predictions.from_logits(images, card.classes, lead.logits, lead.failures, about)
    write_predictions(predictions, wanted.output)
    journal.remove()
    return predictions


def _costs(measures: Measures, service: DataOwnerService) -> dict[str, Any]:
    traffic, costs = service.traffic, service.program.costs()
    batches, images = len(measures.images), sum(measures.images)
    online_s, preprocessing_s = (median(times) if times else 0.0 for times in (measures.online_s, measures.preprocessing_s))
    online = traffic.sent[Phase.ONLINE] + traffic.received[Phase.ONLINE]
    return {
        "images": images,
        "batches": batches,
        "batch_images": max(measures.images, default=0),
        "online_s_per_batch": online_s,
        "preprocessing_s_per_batch": preprocessing_s,
        "online_bytes_per_image": online / max(1, images),
        "exchanges_per_batch": costs.exchanges,
        "key_bytes_per_image": costs.key_bytes,
    }
