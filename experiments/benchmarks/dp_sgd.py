"""Images a second of DP-SGD by PrivateLearner beside bare Opacus on the same model and data, in one run.

    python experiments/benchmarks/dp_sgd.py [--model convnet] [--image-size 64] [--normalisation group] [--steps 6] [--turns 3]

Bare Opacus is what its tutorial shows: PrivacyEngine.make_private on model, SGD and loader, torch's own generator for noise and
sampling, gradients of all images held at once. It needs contiguous maps (its sampler for convolutions misreads channels-last
ones) and, for ResNet, blocks without in-place sums. Both draw Poisson batches of the same expected size, are timed in turns, so that a
busy machine slows both, and each gives its best turn. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock

from primia.config.settings import AugmentationSettings, ModelSettings, TrainingSettings
from primia.data.statistics import Normalisation
from primia.models.registry import build_model
from primia.privacy.learner import PrivateLearner
from primia.privacy.mechanism import Mechanism
from primia.privacy.noise import SecureGenerator
from primia.privacy.sampling import Units
from primia.training.learner import LearnerSpec, LocalWork

IMAGES = 1024
CLASSES = ("a", "b", "c")
NOISE, CLIP = 1.0, 1.0


class Memory:
    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, len(CLASSES), IMAGES)
        self.images = rng.integers(0, 256, (IMAGES, 1, size, size), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def gather(self, indices: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return self.images[indices]


def settings(options: argparse.Namespace) -> ModelSettings:
    return ModelSettings.model_validate({"name": options.model, "normalisation": options.normalisation})


def ours(options: argparse.Namespace, data: Memory) -> Callable[[int], None]:
    spec = LearnerSpec(
        settings(options),
        TrainingSettings.model_validate({"batch_size": options.batch_size, "optimizer": "sgd", "learning_rate": 0.01}),
        AugmentationSettings.model_validate(dict.fromkeys(AugmentationSettings.model_fields, 0.0)),
        proximal_mu=0.0, precision="float32", device=options.device, classes=CLASSES, channels=1, image_size=options.image_size,
        seed=1, class_weights=None,
    )  # fmt: skip
    learner = PrivateLearner(spec, physical_batch=4 * options.batch_size)

    def run(steps: int) -> None:
        learner.protect(Units.images(IMAGES), Mechanism(NOISE, CLIP, options.batch_size / IMAGES, IMAGES))
        learner.train(data, LocalWork("site", 1, 1, 0, steps, Normalisation((0.5,), (0.25,))))

    return run


def _block(self: BasicBlock, x: Tensor) -> Tensor:
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    return self.relu(out + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


def bare_opacus(options: argparse.Namespace, data: Memory) -> Callable[[int], None]:
    model = build_model(settings(options), classes=len(CLASSES), channels=1, image_size=options.image_size, seed=1)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, BasicBlock):
            module.forward = _block.__get__(module)
    model.to(options.device).train()
    images = torch.from_numpy(data.images).float().div_(255).sub_(0.5).div_(0.25)
    loader = DataLoader(TensorDataset(images, torch.from_numpy(data.labels)), batch_size=options.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    private, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=CLIP
    )

    def run(steps: int) -> None:
        batches = iter(loader)
        for _ in range(steps):
            batch, labels = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(private(batch.to(options.device)), labels.to(options.device)).backward()
            optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnet", choices=["convnet", "resnet18"])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--normalisation", default="group", choices=["group", "weight"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    data = Memory(options.image_size)
    runs = {"opacus": bare_opacus(options, data), "ours": ours(options, data)}
    best = dict.fromkeys(runs, 0.0)
    for turn in range(options.turns + 1):
        for name, run in runs.items():
            begun = perf_counter()
            run(options.steps if turn else 1)  # the first turn warms up
            if turn:
                best[name] = max(best[name], options.steps * options.batch_size / (perf_counter() - begun))
        print(f"turn {turn}: " + ", ".join(f"{name} {value:.1f}" for name, value in best.items()) + " images/s", flush=True)
    generator, count = SecureGenerator(), 11_200_000
    generator.rounded_gaussian(count, 2.0**20)
    begun = perf_counter()
    generator.rounded_gaussian(count, 2.0**20)
    print(
        json.dumps(
            {
                "benchmark": "dp_sgd",
                **{name: getattr(options, name) for name in ("model", "image_size", "normalisation", "batch_size", "threads", "device")},
                "images_per_s": {name: round(value, 1) for name, value in best.items()},
                "ratio_to_opacus": round(best["ours"] / best["opacus"], 2),
                "noise_of_11.2M_values_s": round(perf_counter() - begun, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
