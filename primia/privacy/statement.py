"""What a run's differential privacy means, as a paragraph that can stand in a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from primia.privacy.rounding import bound, lower, span, upper
from primia.privacy.site import Statement

_PROTECTED = {
    "image": "each training image",
    "patient": "all training images of each patient together",
    "site": "all training images of each site together",
}
_PATIENTS = "Patients are told apart by the sites' own identifiers; an image without one counts as a patient of its own."
_PUBLIC = "Settings, numbers of units and numbers of steps are taken as public."
_PUBLIC_SUMS = "Settings, the number of sites, and all sites' numbers of images and steps together are taken as public."
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
    sentences += [_PATIENTS] if first.unit == "patient" else []
    sentences += [_PUBLIC_SUMS if central else _PUBLIC]
    if first.noisy_statistics:
        sentences += ["Mean and standard deviation of the pixels were taken from the training images with noise, which epsilon includes."]
    totals = [item.epsilon_all_runs for item in statements]
    known = [total for total in totals if total is not None]
    if len(known) < len(totals):
        sentences += ["Earlier runs on the same data protected another unit; what all runs cost together is not stated."]
    elif any(item.epsilon < total for item, total in zip(statements, known, strict=True)):
        sentences += [f"Over all runs of this federation on the same data, epsilon is at most {upper(max(known))}."]
        sentences += ["That sum is for runs whose settings and ends were not chosen by the results of earlier ones."]
    sentences += ["Validation and test images are not covered: metrics on them are exact."]
    return " ".join(sentences)


def _guarantee(statements: Sequence[Statement]) -> str:
    first = statements[0]
    guaranteed = bound([item.epsilon for item in statements], [item.delta for item in statements])
    where, sets = ("", "federations") if first.unit == "site" else ("at each site ", "data sets")
    return (
        f"Training was differentially private for {_PROTECTED[first.unit]}: {where}with {guaranteed}, for {sets} that differ by one "
        f"{first.unit} that is there or not."
    )


def _steps(statements: Sequence[Statement]) -> str:
    first = statements[0]
    views = "" if first.views == 1 else f"the gradients of up to {first.views} {_VIEWS[first.unit]} were averaged, "
    rate, steps = (span([getattr(item, name) for item in statements]) for name in ("sample_rate", "steps"))
    noise = span([item.noise_multiplier for item in statements], lower)
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
    rounds = span([item.steps for item in statements])
    noise = span([item.noise_multiplier for item in statements], lower)
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
