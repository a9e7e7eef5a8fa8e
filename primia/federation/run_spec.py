"""What a run is started with. Light to import: whoever starts a driver or a trial needs nothing of what these need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from primia.config.settings import Settings
from primia.data.prepare import FederatedData
from primia.federation.plan import SitePlan, plan_sites
from primia.privacy.account import Account


@dataclass(frozen=True)
class RunSetup:
    """Everything that the driver actor is started with; picklable.

    ``account``: of the runs that this is one of. ``identities``: folder of the driver's keys; None: beside the run folders.
    """

    settings: Settings
    sites: tuple[SitePlan, ...]
    classes: tuple[str, ...]
    channels: int
    image_size: int
    synthetic: bool
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    device: str
    folder: Path
    started_at: float
    data_seconds: float
    account: Account | None = None
    identities: Path | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        data: FederatedData,
        folder: Path,
        *,
        started_at: float,
        device: str = "cpu",
        data_seconds: float = 0.0,
        notices: tuple[str, ...] = (),
        account: Account | None = None,
        identities: Path | None = None,
    ) -> RunSetup:
        """A run on these images; ``notices`` go to its log beside the data's own warnings."""
        return cls(
            settings=settings,
            sites=plan_sites(data, settings.run),
            classes=data.classes,
            channels=data.channels,
            image_size=data.image_size,
            synthetic=data.synthetic,
            skipped=data.skipped,
            warnings=(*data.warnings, *notices),
            device=device,
            folder=folder,
            started_at=started_at,
            data_seconds=data_seconds,
            account=account,
            identities=identities,
        )

    @property
    def charter_id(self) -> str:
        """Names the run among all that a host serves."""
        return str(self.folder)

    @property
    def training_sites(self) -> tuple[str, ...]:
        """Names of the sites that take part in rounds."""
        return tuple(site.name for site in self.sites if site.trains)

    @property
    def selecting_sites(self) -> tuple[str, ...]:
        """Names of the sites whose validation shard chooses the best model."""
        return tuple(site.name for site in self.sites if site.selects)

    @property
    def testing_sites(self) -> tuple[str, ...]:
        """Names of the sites with a test shard."""
        return tuple(site.name for site in self.sites if site.tests)
