"""The model file: weights as safetensors, and a JSON card with all that is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from primia.config.settings import ModelSettings
from primia.data.statistics import Normalisation
from primia.errors import ModelError
from primia.files import atomic_text, atomic_vectors
from primia.models.pretrained import misfit
from primia.models.registry import build_model

_WEIGHTS = "model.safetensors"
_CARD = "model.json"


@dataclass(frozen=True)
class ModelCard:
    """What a model is and what it expects: images of ``image_size`` and ``channels``, scaled to 0..1, then normalised."""

    model: ModelSettings
    classes: tuple[str, ...]
    channels: int
    image_size: int
    normalisation: Normalisation
    synthetic: bool
    run: str
    versions: Mapping[str, str]


def save_model(folder: Path, card: ModelCard, state: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights and card, each atomically."""
    document = asdict(card) | {"model": card.model.model_dump(mode="json")}
    atomic_vectors(folder / _WEIGHTS, state)
    atomic_text(folder / _CARD, json.dumps(document, indent=1) + "\n")


def load_model(folder: Path) -> tuple[nn.Module, ModelCard]:
    """The model of a run folder, in evaluation mode, and its card.

    Raises:
        ModelError: a file is missing, is not what it should be, or the two do not fit each other.
    """
    card = _load_card(folder / _CARD)
    # The weights are all loaded below, so pretrained ones need not be there any more.
    settings = card.model.model_copy(update={"pretrained": "no"})
    model = build_model(settings, classes=len(card.classes), channels=card.channels, image_size=card.image_size, seed=0)
    state = _load_weights(folder / _WEIGHTS)
    if wrong := misfit(state, model.state_dict()):
        raise ModelError(f"{folder / _WEIGHTS}: does not fit {_CARD}: {wrong}; the two files are of different runs")
    model.load_state_dict(state, strict=False)
    return model.eval(), card


def _load_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; is the run finished?")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cut short or not a safetensors file ({error}); copy it again") from None


def _load_card(path: Path) -> ModelCard:
    try:
        document = json.loads(path.read_text())
        return ModelCard(
            **document
            | {
                "model": ModelSettings.model_validate(document["model"]),
                "classes": tuple(document["classes"]),
                "normalisation": Normalisation(**{name: tuple(values) for name, values in document["normalisation"].items()}),
            }
        )
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; is this a run folder, and is the run finished?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a model card ({' '.join(str(error).split())})") from None
