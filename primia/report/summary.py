"""The results of a run, typed: what ``summary.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from primia.privacy.rounding import bound

Split = Literal["test", "validation"]
SPLITS: tuple[Split, ...] = ("test", "validation")


class _Document(BaseModel):
    """Frozen; fields that later versions add are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ClassMetrics(_Document):
    """One class against the rest."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Metrics(_Document):
    """An evaluation; rows of ``confusion`` are the truth, columns the prediction."""

    images: int
    loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    mcc: float | None
    roc_auc: float | None
    confusion: tuple[tuple[int, ...], ...]
    per_class: dict[str, ClassMetrics]


class SiteResult(_Document):
    """The best model on one site's images, whether it has images for training, and how many where it tells."""

    validation: Metrics | None
    test: Metrics | None
    trains: bool
    train_images: int | None

    def on(self, split: Split) -> Metrics | None:
        """Metrics of one split."""
        return self.test if split == "test" else self.validation


class WorstSite(_Document):
    """The site with the lowest MCC."""

    name: str
    mcc: float


class Traffic(_Document):
    """Bytes from a site (up) and to it (down)."""

    up_bytes: int
    down_bytes: int


class Communication(Traffic):
    """Traffic of all sites together, and of each."""

    sites: dict[str, Traffic]


class ModelFacts(_Document):
    """The network."""

    name: str
    parameters: int


class DataFacts(_Document):
    """What was trained on: images in all, or patients where those are protected; ``counts`` is split -> site -> class -> images."""

    classes: tuple[str, ...]
    image_size: int
    channels: int
    skipped: tuple[str, ...]
    train_images: int | None
    train_patients: int | None = None
    counts: dict[str, dict[str, dict[str, int]]]


class SitePrivacy(_Document):
    """What a site's data have cost: epsilon at delta, for data sets that differ by one unit."""

    unit: str
    epsilon: float
    epsilon_all_runs: float | None
    delta: float
    accountant: str
    noise_multiplier: float
    sample_rate: float
    sampling: str
    steps: int
    clip: float
    views: int
    units: int
    neighbours: str


class Privacy(_Document):
    """Who saw what, and what it cost.

    ``chooses_model``: the best model was chosen by validation, else the last was taken. ``statement`` is a paragraph for a paper,
    ``sites`` is empty without differential privacy.
    """

    unit: str
    secure_aggregation: bool
    sealed: bool
    chooses_model: bool
    sites: dict[str, SitePrivacy]
    statement: str

    @property
    def in_short(self) -> str:
        """One line."""
        hidden = "secure aggregation" if self.secure_aggregation else "sealed updates" if self.sealed else "updates in clear"
        if not self.sites:
            return f"{hidden}; no differential privacy"
        guaranteed = bound([site.epsilon for site in self.sites.values()], [site.delta for site in self.sites.values()])
        return f"{hidden}; {guaranteed}, for each {self.unit}"


class Fault(_Document):
    """A site that was left out of a round."""

    round: int
    site: str
    reason: str


class RunSummary(_Document):
    """``summary.json`` of a finished run; times in seconds."""

    name: str
    mode: Literal["federated", "pooled", "local"]
    seed: int
    status: str
    rounds: int
    best_round: int
    synthetic: bool
    validation: Metrics | None
    test: Metrics | None
    sites: dict[str, SiteResult]
    worst_site: WorstSite | None
    timing: dict[str, float]
    communication: Communication
    model: ModelFacts
    data: DataFacts
    privacy: Privacy
    faults: tuple[Fault, ...]
    versions: dict[str, str]
    config: dict[str, dict[str, object]]

    @classmethod
    def of(cls, summary: Self | Mapping[str, object]) -> Self:
        """The typed form of the document; what is typed already stays as it is."""
        return summary if isinstance(summary, cls) else cls.model_validate(summary)

    def on(self, split: Split) -> Metrics | None:
        """Metrics of one split over all sites together."""
        return self.test if split == "test" else self.validation

    @property
    def judged_split(self) -> Split:
        """The split whose numbers are the result: test, or validation where there are no test images."""
        return "test" if self.test else "validation"

    @property
    def judged(self) -> Metrics | None:
        """Metrics that are the result of the run."""
        return self.on(self.judged_split)

    @property
    def training_sites(self) -> tuple[str, ...]:
        """Sites whose images were trained on."""
        if self.mode == "local":
            return (self.local_site,)
        return tuple(name for name, site in self.sites.items() if site.trains)

    @property
    def local_site(self) -> str:
        """The site that trained alone; empty in other modes."""
        return str(self.config["run"]["site"]) if self.mode == "local" else ""

    @property
    def kind(self) -> str:
        """Mode, and for a local run its site."""
        return f"{self.mode} {self.local_site}".rstrip()

    def sites_on(self, split: Split, limit: int) -> list[tuple[str, Metrics]]:
        """Sites with images in ``split``: all in their order, or the ``limit`` with the lowest MCC where there are more."""
        scored = [(name, metrics) for name, site in self.sites.items() if (metrics := site.on(split))]
        if len(scored) <= limit:
            return scored
        return sorted(scored, key=lambda item: -2.0 if item[1].mcc is None else item[1].mcc)[:limit]

    def site_count(self, split: Split) -> int:
        """Number of sites with images in ``split``."""
        return sum(site.on(split) is not None for site in self.sites.values())

    def is_worst(self, name: str, split: Split) -> bool:
        """Whether ``name`` is the worst of several sites, on the split that was judged."""
        return self.worst_site is not None and split == self.judged_split and self.worst_site.name == name and self.site_count(split) > 1
