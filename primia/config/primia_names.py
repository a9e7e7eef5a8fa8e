"""PriMIA's names of settings, and where their meaning is found here.

Only for the error that an old ``.ini`` file gives: it names the new key. PriMIA: Kaissis et al., Nature
Machine Intelligence 3, 473-484, 2021, doi 10.1038/s42256-021-00337-8.
"""

from __future__ import annotations

from collections.abc import Mapping

PRIMIA_SECTIONS = frozenset({"config", "albumentations", "federated", "system", "DP"})
"""Sections of PriMIA's files that no section here is called."""

NEW_NAMES: Mapping[str, str] = {
    "config.batch_size": "training.batch_size",
    "config.test_batch_size": "training.evaluation_batch_size",
    "config.train_resolution": "data.image_size",
    "config.inference_resolution": "data.image_size",
    "config.validation_split": "data.validation_fraction",
    "config.epochs": "federation.rounds",
    "config.lr": "training.learning_rate",
    "config.end_lr": "training.end_learning_rate",
    "config.restarts": "training.restarts",
    "config.seed": "run.seed",
    "config.test_interval": "federation.validate_every",
    "config.optimizer": "training.optimizer",
    "config.beta1": "training.beta1",
    "config.beta2": "training.beta2",
    "config.weight_decay": "training.weight_decay",
    "config.momentum": "training.momentum",
    "config.model": "model.name",
    "config.pooling_type": "model.pooling",
    "config.pretrained": "model.pretrained",
    "config.weight_classes": "training.class_weights",
    "augmentation.translate": "augmentation.translation",
    "albumentations.noise_std": "augmentation.noise",
    "albumentations.randombrightness": "augmentation.brightness",
    "albumentations.vertical_flip_prob": "augmentation.vertical_flip",
    "federated.sync_every_n_batch": "federation.sync_every_n_batch",
    "federated.keep_optim_dict": "federation.keep_optimizer_state",
    "federated.weighted_averaging": "federation.weighting",
}
"""PriMIA's ``section.key`` to this project's."""
