"""The model owner's preparations: a run's model, compiled with widths from images of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.config.reader import load_config
from primia.config.settings import InferenceSettings
from primia.data.prepare import check_trained_on, prepare, shards_beside
from primia.data.shard import Shard
from primia.data.statistics import Normalisation
from primia.errors import ConsentError, DataError, ProtocolError
from primia.inference.images import find_images
from primia.inference.keystore import KeyStore
from primia.models.file import ModelCard, load_model
from primia.mpc.compiler import Compiled, Precision, compile_as, compile_network
from primia.mpc.dpf import Backend
from primia.mpc.estimate import estimate, measure_rates
from primia.mpc.program import Program
from primia.mpc.workers import Workers
from primia.training.images import as_unit, normalise_
from primia.untrusted.documents import parse_object

CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class PublicCard:
    """What the data owner must know of a model to give it images and to read its answer; part of the plan."""

    classes: tuple[str, ...]
    channels: int
    image_size: int
    normalisation: Normalisation
    synthetic: bool
    run: str

    @classmethod
    def of(cls, card: ModelCard) -> PublicCard:
        """The public part of a model's card."""
        return cls(card.classes, card.channels, card.image_size, card.normalisation, card.synthetic, card.run)

    def to_json(self) -> str:
        """A text that :meth:`from_program` reads."""
        normalisation = {"mean": self.normalisation.mean, "std": self.normalisation.std}
        return json.dumps({**self.__dict__, "normalisation": normalisation}, sort_keys=True)

    @classmethod
    def from_program(cls, program: Program) -> PublicCard:
        """The card that came with a plan.

        Raises:
            ProtocolError: it is none.
        """
        try:
            fields: dict[str, Any] = parse_object(program.about)
            scale = {name: tuple(map(float, values)) for name, values in fields["normalisation"].items()}
            return cls(**fields | {"classes": tuple(fields["classes"]), "normalisation": Normalisation(**scale)})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ProtocolError(
                f"the plan does not say what images the model takes ({error}); install the same version everywhere"
            ) from None


def compile_run(run: Path, calibration: Path | None, settings: InferenceSettings, workers: Workers) -> Compiled:
    """The model of a run folder for encrypted inference.

    Widths come from ``calibration``, a folder of images as ``infer`` takes them, else from the run's own validation
    images; never from the data owner's.

    Raises:
        ModelError: the network is not supported; see :func:`primia.mpc.compiler.compile_network`.
        DataError: there are no images to calibrate with.
    """
    model, card = load_model(run)
    images = _images_of(calibration, card) if calibration else _validation_images(run, card)
    shape = (card.channels, card.image_size, card.image_size)
    precision = Precision(settings.ring_bits, settings.fraction_bits, settings.spare_bits)
    compiled = compile_network(model, shape, normalise_(images, card.normalisation), precision, workers)
    return replace(compiled, program=replace(compiled.program, about=PublicCard.of(card).to_json()))


def compile_for_keys(run: Path, store: KeyStore) -> Compiled:
    """The model of a run folder as it was when keys were made for it.

    Raises:
        ProtocolError: the keys are for another model.
    """
    compiled = compile_as(store.program, load_model(run)[0])
    if compiled.fingerprint != store.fingerprint:
        raise ProtocolError(f"the keys in {store.folder} were made for another model than {run}; make fresh ones with --preprocess")
    return compiled


def plan_report(compiled: Compiled, aes: Backend) -> dict[str, Any]:
    """What is printed before anything runs, for JSON."""
    program, costs = compiled.program, compiled.program.costs()
    expected = estimate(program, costs, measure_rates(program, aes))
    layers = [
        {
            "name": layer.name,
            "shape": list(layer.shape),
            "weight_bits": layer.weight_bits,
            "comparison_bits": layer.comparison_bits,
            "pool_bits": layer.pool_bits,
        }
        for layer in program.layers
    ]
    return {
        "ring_bits": program.bits,
        "fraction_bits": program.fraction_bits,
        "aes": aes.name,
        "layers": layers,
        "comparisons": costs.comparisons,
        "multiplications": costs.multiplications,
        "exchanges": costs.exchanges,
        "key_bytes": costs.key_bytes,
        "online_bytes": costs.online_bytes,
        "offline_bytes": costs.offline_bytes,
        "setup_bytes": costs.setup_bytes,
        "expected_preprocessing_core_s": expected.preprocessing_s,
        "expected_online_core_s": expected.online_s,
        "calibration": compiled.agreement.__dict__,
    }


def _images_of(folder: Path, card: ModelCard) -> Tensor:
    images = find_images(folder, classes=card.classes, channels=card.channels, image_size=card.image_size)
    chosen = np.linspace(0, len(images) - 1, min(CALIBRATION_IMAGES, len(images))).astype(int)
    return _unit(np.stack([images.read(int(index)) for index in chosen]))


def _validation_images(run: Path, card: ModelCard) -> Tensor:
    settings = load_config(run / "config.ini", follow=False)
    try:
        data = prepare(settings.data, shards_beside(run.resolve().parent), kept=settings.data.cache, check=partial(check_trained_on, run))
    except (ConsentError, DataError) as error:
        raise DataError(f"no images to calibrate with: {error}; give some of the model owner's own with --calibration DIR") from None
    shards = [Shard.open(path) for site in data.sites if (path := site.validation or site.train)]
    each = -(-CALIBRATION_IMAGES // len(shards))
    parts = [shard.gather(np.linspace(0, len(shard) - 1, min(each, len(shard))).astype(np.int64)) for shard in shards]
    return _unit(np.concatenate(parts)[:CALIBRATION_IMAGES])


def _unit(pixels: NDArray[np.uint8]) -> Tensor:
    return as_unit(torch.from_numpy(pixels))
