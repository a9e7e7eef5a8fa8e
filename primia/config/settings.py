"""Typed settings: one frozen model per section of the ``.ini`` file.

Every field has a type, bounds, a default and a one-line description with its unit; the reference
page ``docs/configuration.md`` is generated from them. Reading the file is :mod:`primia.config.reader`.
What contradicts itself is refused here; what merely has no effect is listed in :mod:`primia.config.effects`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Positive = Annotated[float, Field(gt=0.0, le=1e9)]
Rate = Annotated[float, Field(gt=0.0, le=1e30)]
"""Within float32, also over 1 - beta1 and times a decay, so that no step fails on its conversion: that would tell how many a site makes."""

MOST = 1_000_000
"""Largest count: a product of two counts and a number of images stays far below 2^63, which sums over sites wrap at."""

Count = Annotated[int, Field(ge=0, le=MOST)]
PositiveCount = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ClassName = Annotated[str, Field(min_length=1)]

MOST_DEMO_BYTES = 2**32
"""Of all demonstration images together: they are drawn for whoever resumes a run, which somebody else may have made."""

_LONGEST_PATTERN = 500

LEAST_NOISE = 0.3
"""Noise ends at 12.5 deviations. From here on a neighbour's sum reaches as far, but for a chance of 1e-19 a step."""

RESNET_SMALLEST_INPUT = 32
"""Pixels below which ResNet's five halvings leave nothing to pool."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False)


class RunSettings(Section):
    """What is run, and where its folder lies."""

    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
        json_schema_extra={"format": "letters, digits, '.', '_' and '-', beginning with a letter or digit"},
        description="Name of the run folder; empty: made from model, mode and time.",
    )
    output: Path = Field(Path("runs"), description="Folder in which run folders are made.")
    dry_run: bool = Field(False, description="Train on the mock half of every site's data, to try out a federation; site boxes only.")
    mode: Literal["federated", "pooled", "local"] = Field(
        "federated", description="Sites train together; all shards as one; or one site alone. All three take equal optimisation steps."
    )
    site: str = Field("", description="The site that trains alone.")
    seed: Seed = Field(1, description="Seed of initial weights, of the sites of a round and, with run.repeat, of what sites draw.")
    repeat: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        json_schema_extra={"format": "at most 64 letters, digits, '.', '_' and '-'"},
        description="Identity of an earlier run (repeat in its summary.json) whose sites' random choices are made again; empty: choices of "
        "this run's own.",
    )
    keep_checkpoints: PositiveCount = Field(2, description="Round checkpoints kept in the run folder.")

    @model_validator(mode="after")
    def _check(self) -> RunSettings:
        if self.mode == "local" and not self.site:
            raise ValueError("run.mode = local needs run.site, the site that trains alone")
        return self


class DataSettings(Section):
    """Where images come from and how they become shards."""

    source: Literal["demo", "mnist", "folder", "boxes"] = Field(
        "demo", description="Built-in synthetic radiographs, torchvision's MNIST, an image folder, or site boxes with their owners' grants."
    )
    path: Path | None = Field(None, description="Image folder, folder of packed shards, torchvision's MNIST root, or folder of site boxes.")
    image_size: int = Field(64, ge=8, le=2048, description="Height and width that images are resized to, in pixels.")
    channels: Literal[1, 3] = Field(1, description="1: grey values; 3: RGB (grey images are repeated).")
    classes: tuple[ClassName, ...] = Field(
        (), description="Class names, comma-separated; empty: those found, which then must agree between sites."
    )
    patient_pattern: str = Field(
        "auto",
        json_schema_extra={"format": "auto, file or a regular expression with one group"},
        description="auto: the two known file-name patterns; file: every file its own patient; else a regular expression with one group.",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="What to do with an image that cannot be read; skipped ones are named and counted."
    )
    sites: PositiveCount = Field(3, description="Sites to make where the source has none of its own.")
    split: Literal["iid", "label-skew", "quantity-skew"] = Field("iid", description="How patients are dealt to made sites.")
    dirichlet_alpha: Positive = Field(
        0.5, description="Concentration of the Dirichlet draws for label-skew and quantity-skew; small is more skewed."
    )
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.15, description="Fraction of patients for validation where the source has no split."
    )
    test_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.15, description="Fraction of patients for the test where the source has no split."
    )
    split_seed: Seed = Field(
        1, description="Seed of the split and of the demonstration images, apart from run.seed so that seeds compare on one split."
    )
    demo_images: int = Field(300, ge=12, le=MOST, description="Images a site in the demonstration set, over all three splits.")
    normalisation: Literal["pooled", "site"] = Field(
        "pooled", description="Mean and standard deviation of all training pixels, or of each site's own."
    )
    cache: Path | None = Field(None, description="Folder of packed shards; empty: .shards beside the run folders.")

    @field_validator("patient_pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError("too long")
        try:
            groups = re.compile(pattern).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if pattern not in ("auto", "file") and groups != 1:
            raise ValueError("not one group")
        return pattern

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("data.validation_fraction + data.test_fraction leave nothing to train on; make their sum smaller than 1")
        if self.source in ("folder", "boxes") and self.path is None:
            raise ValueError(f"data.source = {self.source} needs data.path (or --data DIR)")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"data.classes = {', '.join(self.classes)} names a class twice")
        if self.source == "demo" and self.sites * self.demo_images * self.channels * self.image_size**2 > MOST_DEMO_BYTES:
            raise ValueError(
                f"data.demo_images = {self.demo_images} at each of {self.sites} sites take more than {MOST_DEMO_BYTES >> 30} GiB at "
                f"data.image_size = {self.image_size}; draw fewer or smaller ones"
            )
        return self


class ModelSettings(Section):
    """The network."""

    name: Literal["convnet", "resnet18"] = Field("convnet", description="convnet: small, any input size; resnet18: torchvision's.")
    pooling: Literal["max", "avg"] = Field(
        "max", description="Pooling of the stem (resnet18) and between stages (convnet); avg makes encrypted inference cheaper."
    )
    normalisation: Literal["batch", "group", "weight"] = Field(
        "batch",
        description="batch: BatchNorm; group: GroupNorm, which keeps no statistics; weight: standardised weights instead of a layer, "
        "for differential privacy and encrypted inference.",
    )
    pretrained: str = Field(
        "no",
        min_length=1,
        json_schema_extra={"format": "no, imagenet or a file"},
        description="no, imagenet (downloads torchvision's weights; needs channels = 3), or a .safetensors or .pth file.",
    )

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if self.pretrained == "imagenet" and self.name != "resnet18":
            raise ValueError(f"model.pretrained = imagenet needs model.name = resnet18, not {self.name}, which has no such weights")
        return self


class TrainingSettings(Section):
    """One site's local work."""

    batch_size: PositiveCount = Field(16, description="Images a batch at each site.")
    evaluation_batch_size: PositiveCount = Field(256, description="Images a batch in evaluation.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="Local optimiser.")
    learning_rate: Rate = Field(2e-3, description="Learning rate at the start.")
    end_learning_rate: Rate | None = Field(None, description="Learning rate at the end; empty: a hundredth of learning_rate.")
    schedule: Literal["constant", "cosine", "log-linear"] = Field("cosine", description="Course of the learning rate over the whole run.")
    restarts: Count = Field(0, description="Times the schedule starts again within the run.")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="Momentum.")
    beta1: Annotated[float, Field(ge=0.0, le=0.999999)] = Field(0.9, description="Decay of the first moment.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.999, description="Decay of the second moment.")
    weight_decay: NonNegative = Field(0.0, description="L2 penalty (sgd, adam) or decoupled decay (adamw).")
    class_weights: bool = Field(False, description="Weight the loss by inverse class frequency over all training sites.")
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Share of the target spread over all classes.")


class AugmentationSettings(Section):
    """Random changes of each training batch, drawn anew each time; by default gentle ones that fit upright grey films."""

    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = Field(5.0, description="Largest rotation, in degrees.")
    translation: Fraction = Field(0.05, description="Largest shift, as a fraction of the image size.")
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Scales are drawn from 1 - scale to 1 + scale.")
    shear: Annotated[float, Field(ge=0.0, lt=90.0)] = Field(0.0, description="Largest shear, in degrees.")
    horizontal_flip: Fraction = Field(0.0, description="Probability of a left-right flip.")
    vertical_flip: Fraction = Field(0.0, description="Probability of an upside-down flip.")
    noise: NonNegative = Field(0.03, description="Largest standard deviation of Gaussian noise, pixels being 0 to 1.")
    brightness: Fraction = Field(0.2, description="Largest change of brightness, pixels being 0 to 1.")
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.4, description="Contrast factors are drawn from 1 - contrast to 1 + contrast."
    )


class FederationSettings(Section):
    """Rounds: how long, who takes part, how updates become the next global model."""

    identity: str = Field(
        "demo@primia.example",
        pattern=r"^[a-z0-9][a-z0-9._-]*@[a-z0-9][a-z0-9.-]*$",
        json_schema_extra={"format": "name@domain in small letters, digits, '.', '_' and '-'"},
        description="The name under which sites grant this federation.",
    )
    rounds: PositiveCount = Field(15, description="Rounds of the run.")
    local_epochs: PositiveCount = Field(1, description="Passes of each site over its own shard in a round.")
    sync_every_n_batch: Count = Field(0, description="Batches of each site in a round instead of local_epochs; 0: whole epochs.")
    weighting: Literal["samples", "uniform"] = Field("samples", description="Weight of a site in the average.")
    sites_per_round: Count = Field(0, description="Sites drawn at random for each round; 0: all.")
    proximal_mu: NonNegative = Field(0.0, description="FedProx: strength of the pull towards the global model; 0: FedAvg.")
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = Field(
        "fedavg", description="How the mean update moves the global model."
    )
    server_learning_rate: Rate | None = Field(
        None, description="Step of the server optimiser; empty: 1 for fedavg and fedavgm, 0.01 for fedadam and fedyogi."
    )
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.9, description="Momentum of fedavgm, first-moment decay of fedadam and fedyogi."
    )
    server_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.99, description="Second-moment decay of fedadam and fedyogi.")
    server_epsilon: Positive = Field(1e-3, description="Smallest denominator of fedadam and fedyogi.")
    batchnorm: Literal["pooled", "local"] = Field(
        "pooled", description="BatchNorm statistics pooled over sites, or whole BatchNorm layers kept at each site (FedBN)."
    )
    keep_optimizer_state: bool = Field(False, description="Keep each site's optimiser state across rounds instead of starting it afresh.")
    validate_every: PositiveCount = Field(1, description="Rounds between validations; the last round is always validated.")
    patience: Count = Field(0, description="Stop after so many validations without a better MCC; 0: never.")
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="Fraction of a round's sites that must deliver; below it the run checkpoints and stops."
    )
    round_deadline: Positive = Field(3600.0, description="Time after which a site is left out of the round, in seconds.")

    @model_validator(mode="after")
    def _check(self) -> FederationSettings:
        if self.sync_every_n_batch and self.local_epochs > 1:
            raise ValueError(
                f"federation.local_epochs = {self.local_epochs} and federation.sync_every_n_batch = {self.sync_every_n_batch} "
                "both say how long a round is; keep one of them"
            )
        return self


class PrivacySettings(Section):
    """Differential privacy: whose data are protected, how strongly, and by which accountant."""

    unit: Literal["none", "image", "patient", "site"] = Field(
        "none",
        description="What is protected: nothing, one image, all images of one patient (both by DP-SGD at each site), or all of a site "
        "(by clipping and noising whole updates, for federations of many sites).",
    )
    target_epsilon: Positive | None = Field(
        None, description="Epsilon that no site exceeds over the planned rounds; the noise follows from it."
    )
    noise_multiplier: Annotated[float, Field(ge=LEAST_NOISE, le=1e5)] | None = Field(
        None, description="Standard deviation of the noise over the clipping norm, where no target is given."
    )
    delta: Annotated[float, Field(ge=1e-12, lt=1.0)] | None = Field(
        None,
        description="Delta; empty: min(1e-5, 1 / n^1.1) for n images or patients of the site; to be given where unit = site. A site "
        "refuses 1 / n and more.",
    )
    clip: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="Clipping norm: the largest L2 norm of what one unit contributes to a step's gradient, or to a round's update."
    )
    accountant: Literal["prv", "rdp"] = Field(
        "prv", description="prv: numerical composition, tight; rdp: Rényi differential privacy, an upper bound."
    )
    views: PositiveCount = Field(
        1,
        description="Gradients averaged before a unit is clipped: augmented copies of an image, or images of a patient (augmentation "
        "multiplicity).",
    )
    physical_batch: PositiveCount = Field(16, description="Images whose gradients are held in memory at a time, at most.")
    statistics: Literal["public", "noisy"] = Field(
        "public",
        description="Mean and standard deviation of pixels: constants that need no data (0.5 and 0.25), or the sites' own, noised and "
        "accounted for.",
    )
    statistics_noise: Annotated[float, Field(ge=LEAST_NOISE, le=1e5)] = Field(10.0, description="Noise multiplier of the noisy statistics.")
    validation: Literal["private", "public"] = Field(
        "private",
        description="private: validation only shows, and the last model is taken, since a choice by private images is not accounted for; "
        "public: the images may be published, and the best model is chosen by them.",
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is protected by differential privacy."""
        return self.unit != "none"

    @property
    def is_by_site(self) -> bool:
        """Whether each site protects its images or patients by DP-SGD."""
        return self.unit in ("image", "patient")

    @property
    def chooses_model(self) -> bool:
        """Whether the best model may be chosen by validation: not by private images, since that is not accounted for."""
        return not self.is_on or self.validation == "public"

    @model_validator(mode="after")
    def _check(self) -> PrivacySettings:
        if self.unit == "site" and self.delta is None:
            raise ValueError("privacy.unit = site needs privacy.delta, well below 1 / sites; take 1e-5, for example")
        if self.unit != "none" and (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(f"privacy.unit = {self.unit} needs one of privacy.target_epsilon and privacy.noise_multiplier, and not both")
        if self.views > self.physical_batch:
            raise ValueError(
                f"privacy.views = {self.views} images of a unit do not fit into privacy.physical_batch = {self.physical_batch}; raise it"
            )
        return self


class SecureAggregationSettings(Section):
    """Secure aggregation: the driver learns sums over sites only."""

    enabled: bool = Field(True, description="Mask what sites send, so that nobody sees a single site's contribution.")
    seal: bool = Field(True, description="Where it is off: seal each site's update for the driver alone.")
    threshold: Annotated[float, Field(gt=0.5, le=1.0)] = Field(
        0.6, description="Fraction of a site's group (its neighbours and itself) that must stay to the end; more than half."
    )
    neighbours: Count = Field(
        0, description="Sites that each site shares secrets with, of more than 32: at least 20; 0: a growing number. Up to 32 sites: all."
    )
    range: Positive = Field(
        16.0, description="Largest change of a parameter in the first round; later ranges follow from the round before."
    )
    site_metrics: bool = Field(
        True, description="Sites tell their own validation and test metrics (confusion counts, MCC, AUC); no: only sums over sites."
    )


class InferenceSettings(Section):
    """Encrypted inference by function secret sharing."""

    ring_bits: int = Field(32, ge=24, le=64, description="Smallest ring that values live in; calibration takes a larger one where needed.")
    fraction_bits: int = Field(10, ge=4, le=20, description="Bits behind the point of activations.")
    spare_bits: int = Field(
        2, ge=0, le=8, description="Bits between the largest value on the calibration images and the largest that is computed right."
    )
    pipeline: int = Field(2, ge=1, le=16, description="Batches in their online phase at the same time.")
    key_memory: int = Field(
        1024, ge=64, le=2**20, description="Keys of one batch that a party holds in memory, in MiB; larger ones are streamed."
    )
    timeout: Positive = Field(120.0, description="Seconds without a message that is due, after which a party is given up.")
    model_owner: str = Field(
        "",
        json_schema_extra={"format": "a custom resource of Ray, or label=value"},
        description="Node of the model owner; empty: any.",
    )
    data_owner: str = Field(
        "",
        json_schema_extra={"format": "a custom resource of Ray, or label=value"},
        description="Node of the data owner; empty: any.",
    )
    dealer: str = Field(
        "",
        json_schema_extra={"format": "a custom resource of Ray, or label=value"},
        description="Node of the crypto provider; empty: any.",
    )


class SearchSettings(Section):
    """Search for settings over the whole federation (`primia-ray tune`), see [search.md](search.md).

    Beside the keys below, the section holds the space: any setting by its whole name, and where its values come from, for example
    `training.learning_rate = loguniform(1e-5, 1e-2)`. [search-space.md](search-space.md) has the grammar. Other commands pass it over.
    """

    space: Mapping[str, str] = Field({}, description="What is searched: section.key to where its values come from.")
    algorithm: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="tpe: Optuna's tree-structured Parzen estimator; random draws; grid: every combination of a finite space."
    )
    trials: PositiveCount = Field(20, description="Federations to train; a grid ends earlier where it has fewer combinations.")
    random_trials: Count = Field(10, description="Trials drawn at random before the estimator has enough to go by.")
    seed: Seed = Field(1, description="Seed of the search; run.seed, the seed of training, is the same in all trials.")
    try_given: bool = Field(True, description="Begin with the settings as the file gives them: what the search has to beat.")
    warm_start: tuple[ClassName, ...] = Field(
        (), description="Folders of earlier sweeps, whose results are known from the start, and .ini files with settings to try first."
    )
    scheduler: Literal["none", "asha", "median", "pbt"] = Field(
        "asha",
        description="Who ends trials early, by validation MCC. asha: the best of each rung go on; median: those below the median of others "
        "end; pbt: the worst take over model and settings of the best, slightly changed.",
    )
    grace: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.2, description="Part of its rounds that every trial may train; for pbt also the part between two exchanges."
    )
    reduction: Annotated[float, Field(gt=1.0)] = Field(3.0, description="asha: one in so many goes on from each rung.")
    second_objective: Literal["none", "epsilon", "bytes"] = Field(
        "none", description="What to hold against validation MCC: the largest epsilon of a site, or bytes moved; the front is shown."
    )
    target: Annotated[float, Field(ge=-1.0, le=1.0)] | None = Field(None, description="Validation MCC at which the sweep ends.")
    time_limit: Positive | None = Field(None, description="Seconds after which the sweep ends; trials under way can be gone on with.")
    max_epsilon: Positive | None = Field(
        None, description="Epsilon that no site exceeds over all trials together; training ends where the next round would exceed it."
    )
    max_concurrent: PositiveCount = Field(1, description="Trials at the same time.")
    replicas: Count = Field(0, description="Actors of each site (or host of sites), all on its node; 0: one a concurrent trial.")


class ResourceSettings(Section):
    """Machines: actors, threads, device."""

    actors: Count = Field(0, description="Actors that host the sites; 0: one a site, at most 8 or the number of cores.")
    threads: Count = Field(0, description="Threads of each actor; 0: the cores shared evenly.")
    cpus_per_actor: NonNegative = Field(0.0, description="CPUs that Ray reserves for each actor, also parts; 0: all shared evenly.")
    gpus_per_actor: NonNegative = Field(0.0, description="GPUs that Ray reserves for each actor, also parts; 0: all shared evenly.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks run; auto: a GPU where Ray finds one.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of forward and backward; bfloat16 is faster on processors with AMX and on GPUs. On GPUs float32 rounds "
        "what convolutions multiply to TF32.",
    )


class Settings(Section):
    """All sections of a run."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    federation: FederationSettings = FederationSettings()
    privacy: PrivacySettings = PrivacySettings()
    secure_aggregation: SecureAggregationSettings = SecureAggregationSettings()
    inference: InferenceSettings = InferenceSettings()
    search: SearchSettings = SearchSettings()
    resources: ResourceSettings = ResourceSettings()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        self._check_consent()
        self._check_aggregation()
        if self.privacy.is_on:
            self._check_privacy()
        if self.model.pretrained == "imagenet" and self.data.channels == 1:
            raise ValueError("model.pretrained = imagenet was trained on three channels, but data.channels = 1; set data.channels = 3")
        if self.model.name == "resnet18" and self.data.image_size < RESNET_SMALLEST_INPUT:
            raise ValueError(
                f"model.name = resnet18 needs images of at least {RESNET_SMALLEST_INPUT} pixels, but data.image_size = "
                f"{self.data.image_size}; set data.image_size = {RESNET_SMALLEST_INPUT}, or model.name = convnet"
            )
        return self

    def _check_consent(self) -> None:
        if self.run.dry_run and self.data.source != "boxes":
            raise ValueError("run.dry_run = yes trains on the mock halves of site boxes, but data.source is not boxes; give --data BOXES")
        if self.run.mode == "pooled" and self.data.source == "boxes" and not self.run.dry_run:
            raise ValueError("run.mode = pooled puts all sites' images in one place, which no grant allows; use federated or local")

    def _check_aggregation(self) -> None:
        if self.secure_aggregation.enabled and self.run.mode == "federated" and self.federation.sites_per_round == 1:
            raise ValueError(
                "federation.sites_per_round = 1 with secure aggregation: a sum over one site hides nothing; draw at least 2, or set "
                "secure_aggregation.enabled = no"
            )

    def _check_privacy(self) -> None:
        """Refuse what would void the guarantee without anybody noticing."""
        unit = f"privacy.unit = {self.privacy.unit}"
        if self.training.class_weights:
            raise ValueError(f"training.class_weights = yes with {unit}: the weights tell exact class counts, which are not accounted for")
        if self.data.normalisation == "site":
            raise ValueError(f"data.normalisation = site with {unit}: a site's own statistics are not accounted for; set pooled")
        if self.federation.patience and not self.privacy.chooses_model:
            raise ValueError(
                f"federation.patience with {unit}: stopping by private validation images is not accounted for; set it to 0, or "
                "privacy.validation = public if they may be published"
            )
        if self.privacy.unit == "patient" and self.data.patient_pattern == "file":
            raise ValueError(f"{unit} with data.patient_pattern = file: each file would count as a patient; set unit = image, or a pattern")
        if self.privacy.statistics == "noisy" and (self.run.mode != "federated" or not self.privacy.is_by_site):
            raise ValueError("privacy.statistics = noisy needs run.mode = federated and privacy.unit = image or patient; set it to public")
        if self.privacy.unit == "site" and (self.run.mode != "federated" or self.federation.weighting != "uniform"):
            raise ValueError(
                "privacy.unit = site needs run.mode = federated and federation.weighting = uniform: sites must count alike for one to hide "
                "among the others"
            )
