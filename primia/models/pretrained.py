"""Weights that a model starts from: ImageNet's or a file's, fitted to the model's channels and classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from primia.data.closed import refuse_box
from primia.errors import ModelError

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load_pretrained(model: nn.Module, source: str) -> None:
    """Load ``imagenet`` or the file ``source`` (a state dict as .safetensors or .pth) into ``model``.

    The last layer stays as it was initialised where the number of classes differs. A first convolution of three
    channels is summed over them where the model has one: on grey images repeated over channels that gives the same
    response. BatchNorm statistics are left out where the model has GroupNorm.

    Raises:
        ModelError: the file is missing or not a weights file, or an entry does not fit the model.
        ConsentError: the file lies in a site box.
    """
    state = _imagenet() if source == "imagenet" else _read(Path(source))
    fitted = _fit(state, model.state_dict())
    if wrong := misfit(fitted, model.state_dict()):
        raise ModelError(f"model.pretrained = {source}: {wrong}; give weights of the same network and channels")
    model.load_state_dict(fitted, strict=False)


def _imagenet() -> dict[str, Tensor]:
    from primia.models.resnet import imagenet_state  # here: torchvision takes a second that other weights do not need

    return imagenet_state()


def _fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fitted = {name: value for name, value in state.items() if name in wanted or not name.endswith(_STATISTICS)}
    names = list(wanted)
    first, head = names[0], names[-1].rpartition(".")[0] + "."
    if first in fitted and fitted[first].shape[1:2] == (3,) and wanted[first].shape[1] == 1:
        fitted[first] = fitted[first].sum(dim=1, keepdim=True)
    if any(fitted[name].shape != wanted[name].shape for name in fitted if name.startswith(head) and name in wanted):
        fitted |= {name: value for name, value in wanted.items() if name.startswith(head)}
    return fitted


def misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first way in which ``state`` does not fit a model whose state is ``wanted``; empty where it fits."""
    for name, value in wanted.items():
        if name not in state and not name.endswith("num_batches_tracked"):
            return f"{name} is missing"
        if name in state and state[name].shape != value.shape:
            return f"{name} has shape {tuple(state[name].shape)} where the model has {tuple(value.shape)}"
    return next((f"{name} is not in the model" for name in state if name not in wanted), "")


def _read(path: Path) -> dict[str, Tensor]:
    refuse_box(path)
    if not path.is_file():
        raise ModelError(f"model.pretrained = {path}: no such file; give no, imagenet, or a .safetensors or .pth file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a file that is something else fails in nearly any way
        raise ModelError(f"model.pretrained = {path}: not a weights file; give a state dict saved as .safetensors or .pth") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"model.pretrained = {path}: holds more than tensors by name; save the model's state_dict() alone")
    return state
