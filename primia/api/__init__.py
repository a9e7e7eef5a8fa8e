"""The library's front door: train, evaluate, predict and audit from Python; the command line is a thin shell around it."""

from __future__ import annotations

from primia.api.audits import audit
from primia.api.evaluation import evaluate
from primia.api.inference import EncryptedOptions, agreement, infer, infer_encrypted, prepare_keys
from primia.api.search import Sweep, tune
from primia.api.training import Run, train

__all__ = [
    "EncryptedOptions",
    "Run",
    "Sweep",
    "agreement",
    "audit",
    "evaluate",
    "infer",
    "infer_encrypted",
    "prepare_keys",
    "train",
    "tune",
]
