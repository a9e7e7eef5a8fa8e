"""The model file: weights as safetensors, and a JSON card with all that is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from primia.config.settings import ModelSettings
from primia.data.closed import refuse_box
from primia.data.shard import CLASS_LIMIT, SIZE_LIMIT, Name
from primia.data.statistics import Normalisation
from primia.errors import ModelError
from primia.files import atomic_text, atomic_vectors
from primia.models.pretrained import misfit
from primia.models.registry import build_model
from primia.untrusted.documents import read_object, validated
from primia.untrusted.files import Unusable, printable
from primia.untrusted.tensors import HEADER_LIMIT, read_tensors

_WEIGHTS = "model.safetensors"
_CARD = "model.json"
_LEAST_STD = 1e-6


@dataclass(frozen=True)
class ModelCard:
    """What a model is and what it expects: images of ``image_size`` and ``channels``, scaled to 0..1, then normalised."""

    model: ModelSettings
    classes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=CLASS_LIMIT)]
    channels: Annotated[int, Field(ge=1, le=3)]
    image_size: Annotated[int, Field(ge=8, le=SIZE_LIMIT)]
    normalisation: Normalisation
    synthetic: bool
    run: Annotated[str, Field(max_length=4096)]
    versions: Mapping[str, str]


def save_model(folder: Path, card: ModelCard, state: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights and card, each atomically."""
    document = asdict(card) | {"model": card.model.model_dump(mode="json")}
    atomic_vectors(folder / _WEIGHTS, state)
    atomic_text(folder / _CARD, json.dumps(document, indent=1) + "\n")


def load_model(folder: Path) -> tuple[nn.Module, ModelCard]:
    """The model of a run folder, in evaluation mode, and its card; a stranger may have made both.

    Raises:
        ModelError: a file is missing, is not what it should be, or the two do not fit each other.
        ConsentError: the folder lies in a site box.
    """
    refuse_box(folder)
    card = _load_card(folder / _CARD)
    # The weights are all loaded below, so pretrained ones need not be there any more.
    settings = card.model.model_copy(update={"pretrained": "no"})
    model = build_model(settings, classes=len(card.classes), channels=card.channels, image_size=card.image_size, seed=0)
    state = _load_weights(folder / _WEIGHTS, sum(value.nbytes for value in model.state_dict().values()))
    if wrong := misfit(state, model.state_dict()):
        raise ModelError(f"{folder / _WEIGHTS}: does not fit {_CARD}: {wrong}; the two files are of different runs")
    model.load_state_dict(state, strict=False)
    return model.eval(), card


def _load_weights(path: Path, expected: int) -> dict[str, Tensor]:
    """The weights in a file that has no more than the ``expected`` bytes and a header."""
    try:
        return {name: torch.from_numpy(value) for name, value in read_tensors(path, expected + HEADER_LIMIT).items()}
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; is the run finished?") from None
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: cut short or not a safetensors file ({printable(error)}); copy it again") from None


def _load_card(path: Path) -> ModelCard:
    try:
        card: ModelCard = validated(_MODEL_CARD, read_object(path))
        _check_scale(card)
        return card
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; is this a run folder, and is the run finished?") from None
    except ValueError as error:
        raise ModelError(f"{path}: not a model card ({printable(error)})") from None


def _check_scale(card: ModelCard) -> None:
    scale = card.normalisation
    if not len(scale.mean) == len(scale.std) == card.channels:
        raise Unusable(f"normalisation is of {len(scale.mean)} channels, not {card.channels}")
    if not all(_LEAST_STD <= std <= 1.0 for std in scale.std) or not all(0.0 <= mean <= 1.0 for mean in scale.mean):
        raise Unusable("normalisation: mean and standard deviation of pixels lie between 0 and 1")


_MODEL_CARD = TypeAdapter(ModelCard)
