"""The results of a run, typed: what ``summary.json`` holds.

The file may be a stranger's, so every number is bounded, and what belongs together is compared: a table, a picture or a sum that is made
of them cannot fail later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from primia.data.shard import CLASS_LIMIT
from primia.privacy.rounding import bound

Split = Literal["test", "validation"]
SPLITS: tuple[Split, ...] = ("test", "validation")

Count = Annotated[int, Field(ge=0, le=10**15)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Amount = Annotated[float, Field(ge=0.0, le=1e30)]
Share = Annotated[float, Field(ge=0.0, le=1.0 + 1e-6)]
Mcc = Annotated[float, Field(ge=-1.0 - 1e-6, le=1.0 + 1e-6)]
Name = Annotated[str, Field(max_length=1000)]
Words = Annotated[str, Field(max_length=100_000)]


class _Document(BaseModel):
    """Frozen; fields that later versions add are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ClassMetrics(_Document):
    """One class against the rest."""

    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count


class Metrics(_Document):
    """An evaluation; rows of ``confusion`` are the truth, columns the prediction."""

    images: Count
    loss: Number | None
    accuracy: Share | None
    balanced_accuracy: Share | None
    mcc: Mcc | None
    roc_auc: Share | None
    confusion: tuple[tuple[Count, ...], ...]
    per_class: Annotated[dict[Name, ClassMetrics], Field(min_length=1, max_length=CLASS_LIMIT)]

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        size = len(self.per_class)
        if [len(row) for row in self.confusion] != [size] * size:
            raise ValueError(f"confusion is no table of the {size} classes")
        return self


class SiteResult(_Document):
    """The best model on one site's images, whether it has images for training, and how many where it tells."""

    validation: Metrics | None
    test: Metrics | None
    trains: bool
    train_images: Count | None

    def on(self, split: Split) -> Metrics | None:
        """Metrics of one split."""
        return self.test if split == "test" else self.validation


class WorstSite(_Document):
    """The site with the lowest MCC."""

    name: Name
    mcc: Mcc


class Traffic(_Document):
    """Bytes from a site (up) and to it (down)."""

    up_bytes: Count
    down_bytes: Count


class Communication(Traffic):
    """Traffic of all sites together, and of each."""

    sites: dict[Name, Traffic]


class ModelFacts(_Document):
    """The network."""

    name: Name
    parameters: Count


class DataFacts(_Document):
    """What was trained on: images in all, or patients where those are protected; ``counts`` is split -> site -> class -> images."""

    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=CLASS_LIMIT)]
    image_size: Count
    channels: Count
    skipped: tuple[Words, ...]
    train_images: Count | None
    train_patients: Count | None = None
    counts: dict[Name, dict[Name, dict[Name, Count]]]


class SitePrivacy(_Document):
    """What a site's data have cost: epsilon at delta, for data sets that differ by one unit."""

    unit: Name
    epsilon: Amount
    epsilon_all_runs: Amount | None
    delta: Share
    accountant: Name
    noise_multiplier: Amount
    sample_rate: Share
    sampling: Name
    steps: Count
    clip: Amount
    views: Count
    units: Count
    neighbours: Words


class Privacy(_Document):
    """Who saw what, and what it cost.

    ``chooses_model``: the best model was chosen by validation, else the last was taken. ``statement`` is a paragraph for a paper,
    ``sites`` is empty without differential privacy.
    """

    unit: Name
    secure_aggregation: bool
    sealed: bool
    chooses_model: bool
    sites: dict[Name, SitePrivacy]
    statement: Words

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

    round: Count
    site: Name
    reason: Words


class RunSummary(_Document):
    """``summary.json`` of a finished run; times in seconds."""

    name: Name
    mode: Literal["federated", "pooled", "local"]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    status: Name
    rounds: Count
    best_round: Count
    synthetic: bool
    validation: Metrics | None
    test: Metrics | None
    sites: dict[Name, SiteResult]
    worst_site: WorstSite | None
    timing: dict[Name, Annotated[float, Field(ge=0.0, le=1e12)]]
    communication: Communication
    model: ModelFacts
    data: DataFacts
    privacy: Privacy
    faults: tuple[Fault, ...]
    versions: dict[Name, Name]
    config: dict[Name, dict[Name, object]]

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        """What is looked up by name is there."""
        if "total" not in self.timing:
            raise ValueError("timing has no total")
        site = self.config.get("run", {}).get("site")
        if self.mode == "local" and not (isinstance(site, str) and site in self.sites):
            raise ValueError("config.run.site is the site that trained alone, and not among sites")
        return self

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
