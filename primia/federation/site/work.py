"""Names of a site's work, by which its journal knows it however a run calls it.

A name follows from what the driver sends, and from as little of that as can be: not from the site's images, nor from what comes of the
work. So a site refuses a second sum alike whatever images it has and whether its work succeeded, and a refusal tells nothing of them. A
change of settings does not make it other work. A driver that changes the model by one bit, the seed or the round asks for other work.
"""

from __future__ import annotations

import hashlib
import json


def training_work(model: str, seed: int, round_: int) -> str:
    """Name the training of a round from a model of this digest, whose draws follow from ``seed``."""
    return _digest("train", model, seed, round_)


def evaluation_work(model: str, split: str) -> str:
    """Name the evaluation of a model of this digest on one split."""
    return _digest(split, model)


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
