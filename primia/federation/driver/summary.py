"""``summary.json``: the results of a run, and what it took."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from primia.federation.driver.checkpoint import RunState
from primia.federation.driver.draws import draws_of
from primia.federation.driver.outcome import Evaluated
from primia.federation.driver.prepare import Prepared
from primia.federation.driver.privacy_summary import privacy_summary
from primia.federation.plan import POOLED
from primia.federation.run_spec import RunSetup
from primia.runs.folder import RunFolder

_PACKAGES = ("primia", "torch", "torchvision", "ray", "numpy", "pyarrow")

Metrics = Mapping[str, object]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def build_summary(setup: RunSetup, prepared: Prepared, state: RunState, tested: Evaluated | None, status: str) -> dict[str, object]:
    """The document of a finished run; ``tested``: the best model on the test shards."""
    if state.best is None:
        raise AssertionError("the last round is always validated, so there is a best model")
    best = state.best
    test_sites = tested.sites if tested else {}
    sites = _sites(setup, prepared, best.sites, test_sites)
    settings = setup.settings
    by_patient = settings.privacy.unit == "patient"
    return {
        "name": setup.folder.name,
        "mode": settings.run.mode,
        "seed": settings.run.seed,
        "repeat": draws_of(settings.run, RunFolder(setup.folder).token()),
        "device": setup.device,
        "status": status,
        "rounds": state.model.round,
        "best_round": best.model.round,
        "synthetic": setup.synthetic,
        "validation": best.validation,
        "test": tested.pooled if tested else None,
        "sites": sites,
        "worst_site": _worst(test_sites or best.sites),
        "timing": {"total": sum(state.progress.seconds.values()), **state.progress.seconds},
        "communication": _communication(state),
        "model": {"name": settings.model.name, "parameters": prepared.flat.parameter_count},
        "data": {
            "classes": list(setup.classes),
            "image_size": setup.image_size,
            "channels": setup.channels,
            "skipped": list(setup.skipped),
            "train_images": None if by_patient else prepared.train_units,
            "train_patients": prepared.train_units if by_patient else None,
            "counts": prepared.class_counts,
        },
        "privacy": privacy_summary(setup, prepared, state),
        "faults": [dict(fault) for fault in state.progress.faults],
        "versions": versions(),
        "config": settings.model_dump(mode="json"),
    }


def _sites(setup: RunSetup, prepared: Prepared, validation: Mapping[str, Metrics], test: Mapping[str, Metrics]) -> dict[str, object]:
    train = prepared.class_counts["train"]
    return {
        site.name: {
            "validation": validation.get(site.name),
            "test": test.get(site.name),
            "trains": site.owns,
            "train_images": sum(train[site.name].values()) if site.name in train else None,
        }
        for site in setup.sites
        if site.name != POOLED
    }


def _worst(sites: Mapping[str, Metrics]) -> dict[str, object] | None:
    """The site with the lowest MCC."""
    scored = [(float(str(metrics["mcc"])), name) for name, metrics in sites.items()]
    if not scored:
        return None
    mcc, name = min(scored)
    return {"name": name, "mcc": mcc}


def _communication(state: RunState) -> dict[str, object]:
    up, down = state.progress.up_bytes, state.progress.down_bytes
    return {
        "up_bytes": sum(up.values()),
        "down_bytes": sum(down.values()),
        "sites": {name: {"up_bytes": up.get(name, 0), "down_bytes": down.get(name, 0)} for name in sorted({*up, *down})},
    }
