"""What a run's differential privacy means, as a paragraph that can stand in a paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import PurePath

from primia.privacy.site import Statement

_PROTECTED = {
    "image": "each training image",
    "patient": "all training images of each patient together",
    "site": "all training images of each site together",
}
_VIEWS = {"image": "augmented copies of an image", "patient": "images of a patient"}
_ACCOUNTANTS = {
    "prv": "numerical composition of privacy loss random variables (Gopi et al., 2021)",
    "rdp": "Rényi differential privacy (Mironov et al., 2019)",
}


def paragraph(statements: Sequence[Statement], *, secure_aggregation: bool, pretrained: str = "no") -> str:
    """One paragraph on the sites' statements, which are of one unit and one run; ``pretrained``: the setting model.pretrained."""
    first = statements[0]
    central = first.unit == "site"
    sentences = [_guarantee(statements)]
    sentences += [_updates(statements) if central else _steps(statements)]
    sentences += [_central_trust(secure_aggregation) if central else _local_trust(secure_aggregation)]
    sentences += [_starting_weights(pretrained)] if pretrained != "no" else []
    sentences += [f"Epsilon was computed by {_ACCOUNTANTS[first.accountant]}, with Opacus."]
    if any(item.epsilon_spent is not None and item.epsilon_spent < item.epsilon for item in statements):
        sentences += [
            "Epsilon is that of all planned rounds, although fewer were trained: what ended them may have depended on the models."
        ]
    sentences += ["Settings, numbers of units and numbers of steps are taken as public."]
    if first.noisy_statistics:
        sentences += ["Mean and standard deviation of the pixels were taken from the training images with noise, which epsilon includes."]
    totals = [item.epsilon_all_runs for item in statements]
    known = [total for total in totals if total is not None]
    if len(known) < len(totals):
        sentences += ["Earlier runs on the same data protected another unit; what all runs cost together is not stated."]
    elif any(item.epsilon < total for item, total in zip(statements, known, strict=True)):
        sentences += [f"Over all runs of this federation on the same data, epsilon is at most {_upper(max(known))}."]
        sentences += ["That sum is for runs whose settings and ends were not chosen by the results of earlier ones."]
    sentences += ["Validation and test images are not covered: metrics on them are exact."]
    return " ".join(sentences)


def _guarantee(statements: Sequence[Statement]) -> str:
    first = statements[0]
    most = "epsilon at most" if len(statements) > 1 else "epsilon ="
    bound = f"{most} {_upper(max(item.epsilon for item in statements))} at delta = {_range([item.delta for item in statements], _upper)}"
    where, sets = ("", "federations") if first.unit == "site" else ("at each site ", "data sets")
    return (
        f"Training was differentially private for {_PROTECTED[first.unit]}: {where}with {bound}, for {sets} that differ by one "
        f"{first.unit} that is there or not."
    )


def _steps(statements: Sequence[Statement]) -> str:
    first = statements[0]
    views = "" if first.views == 1 else f"the gradients of up to {first.views} {_VIEWS[first.unit]} were averaged, "
    rate, steps = (_range([getattr(item, name) for item in statements]) for name in ("sample_rate", "steps"))
    noise = _range([item.noise_multiplier for item in statements], _lower)
    batches = f"Batches were Poisson samples of {first.unit}s at a rate of {rate}, kept secret by the site, over {steps} steps."
    if all(item.sampling == "none" for item in statements):
        batches = f"Each of {steps} steps was on all {first.unit}s."
    return (
        f"Each site trained by DP-SGD (Abadi et al., 2016): {views}the gradient of each {first.unit} was clipped to an L2 norm of "
        f"{first.clip:g}, and Gaussian noise with a noise multiplier of {noise} was added at the site by a cryptographic generator. "
        f"{batches}"
    )


def _updates(statements: Sequence[Statement]) -> str:
    first = statements[0]
    rounds = _range([item.steps for item in statements])
    noise = _range([item.noise_multiplier for item in statements], _lower)
    return (
        f"In each of {rounds} rounds each site's update was clipped to an L2 norm of {first.clip:g}, and Gaussian noise with a noise "
        f"multiplier of {noise} was added to their sum; no amplification by sampling is claimed."
    )


def _local_trust(secure_aggregation: bool) -> str:
    beside = " Secure aggregation hid single updates as well, but the guarantee does not rest on it." if secure_aggregation else ""
    return (
        "The guarantee holds against everybody outside the site: the driver, the other sites, and whoever sees an update or the final "
        f"model.{beside}"
    )


def _central_trust(secure_aggregation: bool) -> str:
    saw = "by secure aggregation saw no single update, but saw their sum" if secure_aggregation else "saw each update"
    return f"The guarantee holds against whoever sees the global models, not against the driver, which {saw} before the noise."


def _starting_weights(pretrained: str) -> str:
    source = "torchvision's ImageNet weights" if pretrained == "imagenet" else f"the weights in the file {PurePath(pretrained).name!r}"
    return f"Training started from {source}; the guarantee does not cover the images that those were trained on."


def _range(values: Sequence[float], rounded: Callable[[float], str] | None = None) -> str:
    """The least and the largest; rounded to the side that claims less, where that matters."""
    low, high = map(rounded or _number, (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    """Three significant digits; whole numbers stay whole."""
    return str(int(value)) if value == int(value) else f"{value:.3g}"


def _lower(value: float) -> str:
    """A lower bound, rounded down to three significant digits."""
    if value <= 0 or not math.isfinite(value):
        return _number(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value / unit + 1e-9) * unit:.3g}"


def _upper(value: float) -> str:
    """An upper bound, rounded up to three significant digits."""
    if value <= 0 or not math.isfinite(value):
        return _number(value) if math.isfinite(value) else "infinite"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit - 1e-9) * unit:.3g}"
