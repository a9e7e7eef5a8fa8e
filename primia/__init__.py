"""Federated learning on medical images with Ray, after PriMIA.

In five lines::

    import primia

    run = primia.train(primia.load_config(overrides=["federation.rounds=3"]))
    print(run.summary["test"]["mcc"])
    print(run.path)

Names are resolved on first use, so that importing the package loads neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.api import EncryptedOptions, Run, Sweep, audit, evaluate, infer, infer_encrypted, prepare_keys, train, tune
    from primia.config.reader import load_config
    from primia.config.settings import Settings
    from primia.inference.predictions import Predictions

__all__ = [
    "EncryptedOptions",
    "Predictions",
    "Run",
    "Settings",
    "Sweep",
    "__version__",
    "audit",
    "evaluate",
    "infer",
    "infer_encrypted",
    "load_config",
    "prepare_keys",
    "train",
    "tune",
]
__version__ = "0.1.0"

_HOMES = {
    "Run": "primia.api",
    "Sweep": "primia.api",
    "audit": "primia.api",
    "evaluate": "primia.api",
    "EncryptedOptions": "primia.api",
    "infer": "primia.api",
    "infer_encrypted": "primia.api",
    "prepare_keys": "primia.api",
    "train": "primia.api",
    "tune": "primia.api",
    "load_config": "primia.config.reader",
    "Settings": "primia.config.settings",
    "Predictions": "primia.inference.predictions",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'primia' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
