"""How well pictures come back from what the receiver of updates sees, under each protection."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from primia.audits.inversion import Effort, Observation, Victim, inferred_label, invert
from primia.audits.noise_level import NoiseLevel
from primia.audits.side_by_side import side_by_side
from primia.audits.similarity import Similarity, correlation, mean_similarity, similarity
from primia.audits.subject import Subject
from primia.audits.views import masked, mean_of, noised
from primia.config.settings import ModelSettings
from primia.data.randomness import stream
from primia.data.shard import Shard
from primia.models.registry import build_model
from primia.training.images import as_unit

Protection = Literal["none", "masked", "sum", "noised"]
Network = Literal["first", "best", "open"]
Progress = Callable[[int, int], None]

MOST_SITES = 8
"""Sites whose sum is attacked; more would make it harder still, and take longer."""

_LINE_UP = 30


@dataclass(frozen=True, eq=False)
class Original:
    """A training image, ``picture`` (1, C, H, W) from 0 to 1, and ``company``: images of other sites that step in the same round."""

    site: str
    label: int
    picture: Tensor
    company: Tensor
    company_labels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What came back of one image.

    ``label``: the class that the attack inferred, None where it was told. ``identified``: the picture correlates more with
    its original than with each of up to 30 other images; by chance that happens to one in 31.
    """

    original: int
    network: Network
    protection: Protection
    picture: Tensor
    similarity: Similarity
    label: int | None
    identified: bool


@dataclass(frozen=True, eq=False)
class ReconstructionAudit:
    """All that came back; ``unrelated``: how alike the originals are to other training images, which is what chance gives."""

    originals: tuple[Original, ...]
    results: tuple[Reconstruction, ...]
    unrelated: Similarity
    line_up: int
    noise: NoiseLevel
    parties: int
    effort: Effort

    def select(self, network: Network, protection: Protection) -> tuple[Reconstruction, ...]:
        """The results of one network and protection, by original."""
        found = (result for result in self.results if (result.network, result.protection) == (network, protection))
        return tuple(sorted(found, key=lambda result: result.original))

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those that were attacked."""
        return tuple(dict.fromkeys(result.network for result in self.results))

    @property
    def protections(self) -> tuple[Protection, ...]:
        """Those that were tried."""
        return tuple(dict.fromkeys(result.protection for result in self.results))


@dataclass(frozen=True, eq=False)
class _Attack:
    """One attempt: independent of all others, and of the order they are made in."""

    number: int
    original: Original
    network: Network
    protection: Protection
    victim: Victim
    generator: torch.Generator


def reconstruct(
    subject: Subject, *, images: int, noise: NoiseLevel, effort: Effort, seed: int, threads: int, on_progress: Progress
) -> ReconstructionAudit:
    """Attack so many training images under every protection, on the run's network at its start and at its best.

    Where that network pools by maxima or has normalisation layers, its start is also attacked with neither: if the attack fails on the
    one and works on the other, it is the network that resists and not the attack that is broken.
    """
    rng = stream(seed, "victims")
    originals = _choose(subject, images, rng)
    others = _line_up(subject, rng)
    networks = _networks(subject)
    protections: tuple[Protection, ...] = ("none", "masked", "sum", "noised") if len(originals[0].company) else ("none", "masked", "noised")
    attacks = [
        _Attack(number, original, network, protection, _victim(model, subject), _generator(seed, number, network, protection))
        for network, model in networks.items()
        for protection in protections
        for number, original in enumerate(originals)
    ]
    results = []
    for result in side_by_side(attacks, lambda attack: _run(attack, subject, noise, effort, others), threads):
        results.append(result)
        on_progress(len(results), len(attacks))
    order = {key: number for number, key in enumerate((a.network, a.protection, a.number) for a in attacks)}
    results.sort(key=lambda result: order[result.network, result.protection, result.original])
    unrelated = mean_similarity([similarity(other, original.picture) for original in originals for other in others])
    return ReconstructionAudit(tuple(originals), tuple(results), unrelated, len(others), noise, 1 + len(originals[0].company), effort)


def _choose(subject: Subject, images: int, rng: np.random.Generator) -> list[Original]:
    """Images of the training sites in turn, each of another class than the one before where there is one."""
    shards = [Shard.open(site.train, box=site.box) for site in subject.training_sites if site.train]
    originals = []
    for number in range(images):
        own, *rest = shards[number % len(shards) :] + shards[: number % len(shards)]
        wanted = np.flatnonzero(own.labels == number % len(own.classes))
        place = int(rng.choice(wanted if len(wanted) else len(own)))
        company = [(shard, int(rng.integers(len(shard)))) for shard in rest[: MOST_SITES - 1]]
        originals.append(
            Original(
                own.site,
                int(own.labels[place]),
                _picture(own, place),
                torch.cat([_picture(shard, index) for shard, index in company]) if company else torch.empty(0),
                tuple(int(shard.labels[index]) for shard, index in company),
            )
        )
    return originals


def _line_up(subject: Subject, rng: np.random.Generator) -> list[Tensor]:
    """Other images of the kind: the run's test images, which no attack was made on."""
    others = subject.others
    chosen = rng.permutation(len(others))[:_LINE_UP]
    return [as_unit(torch.from_numpy(others.gather(np.array([index])))) for index in chosen]


def _networks(subject: Subject) -> dict[Network, nn.Module]:
    networks: dict[Network, nn.Module] = {"first": subject.first_model(), "best": subject.best_model}
    settings = subject.settings.model
    if (settings.pooling, settings.normalisation) != ("avg", "weight"):
        networks["open"] = _open_network(settings, subject)
    return networks


def _open_network(settings: ModelSettings, subject: Subject) -> nn.Module:
    """The same network without what stands in the attack's way, at its start."""
    card = subject.card
    changed = settings.model_copy(update={"pooling": "avg", "normalisation": "weight", "pretrained": "no"})
    seed = subject.settings.run.seed
    return build_model(changed, classes=len(card.classes), channels=card.channels, image_size=card.image_size, seed=seed)


def _victim(model: nn.Module, subject: Subject) -> Victim:
    """A copy of its own for each attack, since attacks run side by side."""
    return Victim(deepcopy(model), subject.card.normalisation, subject.settings.training.label_smoothing)


def _run(attack: _Attack, subject: Subject, noise: NoiseLevel, effort: Effort, others: list[Tensor]) -> Reconstruction:
    original = attack.original
    seen, labels = _observe(attack, subject, noise)
    inferred = None if labels else inferred_label(seen)
    wanted = torch.tensor(labels or (inferred,))
    pictures = invert(attack.victim, seen, wanted, tuple(original.picture.shape[1:]), effort, attack.generator)
    closest = max(torch.split(pictures, 1), key=lambda picture: similarity(picture, original.picture).ssim)
    likeness = similarity(closest, original.picture)
    identified = all(correlation(closest, other) < correlation(closest, original.picture) for other in others)
    return Reconstruction(attack.number, attack.network, attack.protection, closest, likeness, inferred, identified)


def _observe(attack: _Attack, subject: Subject, noise: NoiseLevel) -> tuple[Observation, tuple[int, ...]]:
    """What the receiver sees, and the classes where the attack is told them: in a sum it cannot infer them one by one."""
    original, victim = attack.original, attack.victim
    own = victim.observe(original.picture, torch.tensor([original.label])).detached()
    if attack.protection == "none":
        return own, ()
    if attack.protection == "masked":
        parties = 1 + len(original.company)
        return masked(own.gradient, largest=subject.settings.secure_aggregation.range, parties=parties), ()
    if attack.protection == "noised":
        return noised(own.gradient, clip=noise.clip, noise_multiplier=noise.multiplier, generator=attack.generator), ()
    company = zip(torch.split(original.company, 1), original.company_labels, strict=True)
    gradients = [own.gradient, *(victim.observe(picture, torch.tensor([label])).detached().gradient for picture, label in company)]
    return mean_of(gradients), (original.label, *original.company_labels)


def _picture(shard: Shard, index: int) -> Tensor:
    return as_unit(torch.from_numpy(shard.gather(np.array([index])))).contiguous()


def _generator(seed: int, *key: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(stream(seed, "inversion", *key).integers(2**63)))
