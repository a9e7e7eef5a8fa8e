"""What differential privacy costs on the chest X-rays: private federations beside their non-private twins, over several seeds.

    python experiments/reproductions/private_pneumonia.py --data ../shared/data/chest_xray --output runs/private-pneumonia \
        --seeds 1 2 3 [--variants private non-private ...] [--set section.key=value]...

One split by patient (data.split_seed), several seeds of the initial model and of the training (run.seed). Private runs are
``configs/pneumonia-private.ini``. A twin has the same network, passes, augmentation and secure aggregation, but neither clipping
nor noise, the batches, optimiser and class weights that suit a training without them, and its best model by validation (``TWIN``).

Variants start from random weights (``-scratch``) or from a network trained on the demonstration set (``SYNTHETIC``). Its
radiographs are drawn by a program and none is a photograph, so that this start costs no privacy, as one from public images does
not (De et al., 2022). Settings were chosen on the validation images, which epsilon does not cover. Runs that are there already
are kept, interrupted ones are resumed. Ends with a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import primia
from primia.federation.events import Event, RoundFinished

CONFIGS = Path(__file__).parents[2] / "configs"
SYNTHETIC = (
    "run.mode=pooled",
    "data.sites=6",
    "data.demo_images=600",
    "data.image_size=32",
    "data.validation_fraction=0.1",
    "data.test_fraction=0",
    "model.normalisation=weight",
    "training.batch_size=64",
    "training.optimizer=adamw",
    "training.learning_rate=0.003",
    "training.weight_decay=0.05",
    "augmentation.rotation=10",
    "augmentation.scale=0.1",
    "federation.rounds=20",
    "federation.validate_every=5",
    "resources.threads=1",
)
TWIN = (
    "privacy.unit=none",
    "training.batch_size=32",
    "training.optimizer=adamw",
    "training.learning_rate=0.002",
    "training.weight_decay=0.05",
    "training.class_weights=yes",
    "federation.sync_every_n_batch=0",
    "federation.local_epochs=2",
    "federation.keep_optimizer_state=no",
    "federation.validate_every=1",
)
VARIANTS = ("private", "non-private", "private-scratch", "non-private-scratch")


def show(event: Event) -> None:
    if isinstance(event, RoundFinished) and event.validation:
        print(f"  round {event.round}: validation MCC {event.validation['mcc']:.4f}, {event.seconds:.1f} s", flush=True)


def train(config: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Summary of the finished run in ``folder``: as it is, resumed, or trained now."""
    print(folder.name, flush=True)
    if (folder / "summary.json").exists():
        return primia.Run(folder).summary
    if folder.exists():
        return primia.train(resume=folder, on_event=show).summary
    settings = primia.load_config(config, [*overrides, f"run.output={folder.parent}", f"run.name={folder.name}"])
    return primia.train(settings, on_event=show).summary


def result(summary: dict[str, Any]) -> dict[str, float | None]:
    """What the table shows of a run; epsilon and delta are the largest of any site."""
    sites = summary["privacy"]["sites"].values()
    spent = {key: max((site[key] for site in sites), default=None) for key in ("epsilon", "delta")}
    metrics = {f"{split}_{metric}": summary[split][metric] for split in ("validation", "test") for metric in ("mcc", "accuracy")}
    return {**metrics, **spent, "seconds": summary["timing"]["total"]}


def describe(results: list[dict[str, Any]]) -> dict[str, object]:
    """Mean, standard deviation and values of each number that all runs have."""
    return {key: _spread([one[key] for one in results]) for key, value in results[0].items() if value is not None}


def _spread(values: list[float]) -> dict[str, object]:
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": _short(mean(values)), "sd": _short(spread), "values": [_short(value) for value in values]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def show_table(results: dict[str, list[dict[str, Any]]], seeds: list[int]) -> None:
    print(f"{'':20}{'seed':>5}{'val. MCC':>10}{'test MCC':>10}{'test acc.':>10}{'epsilon':>9}{'seconds':>9}")
    for name, ones in results.items():
        for seed, one in zip(seeds, ones, strict=True):
            epsilon = "none" if one["epsilon"] is None else f"{one['epsilon']:.3f}"
            scores = f"{one['validation_mcc']:10.4f}{one['test_mcc']:10.4f}{one['test_accuracy']:10.4f}"
            print(f"{name:20}{seed:5}{scores}{epsilon:>9}{one['seconds']:9.0f}")


def overrides(variant: str, synthetic: Path) -> list[str]:
    """What a variant sets."""
    start = [] if variant.endswith("-scratch") else [f"model.pretrained={synthetic / 'model.safetensors'}"]
    return [*(TWIN if variant.startswith("non-private") else ()), *start]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=VARIANTS)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="for all variants, and above their own settings")
    options = parser.parse_args()
    output = options.output.resolve()
    always = [f"data.path={options.data.resolve()}", *options.sets]
    if not all(variant.endswith("-scratch") for variant in options.variants):
        train(CONFIGS / "demo.ini", list(SYNTHETIC), output / "synthetic")
    results: dict[str, list[dict[str, Any]]] = {}
    for variant in options.variants:
        own = [*overrides(variant, output / "synthetic"), *always]
        runs = {seed: output / f"{variant}-seed{seed}" for seed in options.seeds}
        config = CONFIGS / "pneumonia-private.ini"
        results[variant] = [result(train(config, [*own, f"run.seed={seed}"], folder)) for seed, folder in runs.items()]
    show_table(results, options.seeds)
    described = {variant: describe(ones) for variant, ones in results.items()}
    print(json.dumps({"experiment": "private_pneumonia", "seeds": options.seeds, **described}))


if __name__ == "__main__":
    main()
