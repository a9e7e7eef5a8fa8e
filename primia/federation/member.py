"""One site at its host: its images, its keys, whom it has pinned, and what its owner allows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.data.statistics import PixelSums, pixel_sums
from primia.errors import DataError, ProtocolError
from primia.federation.exchange import Charter
from primia.federation.journal import Journal
from primia.federation.peers import Peers
from primia.federation.plan import SPLITS, SitePlan
from primia.files import atomic_text
from primia.privacy.delta import check_delta
from primia.privacy.spend import Limit
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Advertisement, Roster, Task
from primia.secagg.site import SiteRole
from primia.training.batches import steps_per_epoch

if TYPE_CHECKING:  # Syft, Opacus and a compiler take most of a second to load, and most runs need none of them
    from primia.federation.site_box import SiteBox
    from primia.privacy.sampling import Units
    from primia.privacy.site import SitePrivacy


class Member:
    """A site. One with a box asks its owner's grants before each piece of work; one without was packed by whoever started the run."""

    def __init__(self, plan: SitePlan) -> None:
        self.plan = plan
        self.name = plan.name
        self._data: dict[str, Dataset] = {}
        self._identities: dict[str, Identity] = {}
        self._trusted: dict[str, set[PublicIdentity]] = {}
        self._roles: dict[tuple[str, str], SiteRole] = {}
        self._privacy: dict[str, SitePrivacy] = {}
        self._journals: dict[str, Journal] = {}

    def admit(self, charter: Charter) -> None:
        """Read the owner's grants afresh.

        Raises:
            ConsentError: the federation is not granted, not any more, or not with so little protection.
            PrivacyError: delta is too large for the site's images or patients.
        """
        settings = charter.settings
        if settings.run.dry_run:
            from primia.federation.mock import check_mock

            for split in SPLITS:
                for shard in self.shards(split):
                    check_mock(shard)
        box = self._box(charter)
        if box is not None:
            grant = box.check_grant(settings.federation.identity)
            grant.check_protection(secure=charter.is_secure, sealed=charter.is_sealed)
            grant.check_unit(settings.privacy.unit)
            if charter.is_secure:
                grant.check_known(box.pinned_by_owner())
        if settings.privacy.is_by_site and self.plan.trains:
            check_delta(settings.privacy.delta, self.unit_count(charter), unit=settings.privacy.unit, where="(privacy.delta)")

    def admit_round(self, charter: Charter, round_: int, steps: int) -> None:
        """Raise :class:`BudgetSpent` where the privacy budget does not allow a round."""
        privacy = self.privacy(charter, steps)
        if privacy:
            privacy.admit(round_, steps)

    def note(self, charter: Charter, event: Mapping[str, object]) -> None:
        """Append to the box's audit log who did what on this site's data."""
        box = self._box(charter)
        if box:
            box.audit({"federation": charter.settings.federation.identity, "run": charter.run, **event})

    def dataset(self, split: str) -> Dataset:
        """The images of a split, mapped at the first call."""
        if split not in self._data:
            parts = self.shards(split)
            self._data[split] = parts[0] if len(parts) == 1 else JoinedDataset(parts)
        return self._data[split]

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split; empty where the site has none."""
        return [Shard.open(path) for path in self.plan.shards(split)]

    def class_counts(self, split: str) -> NDArray[np.int64]:
        """Images of each class in a split that the site has."""
        counts: NDArray[np.int64] = np.sum([shard.class_counts() for shard in self.shards(split)], axis=0)
        return counts

    @cached_property
    def pixels(self) -> PixelSums:
        """Sums over all pixels of the training images."""
        return pixel_sums(self.dataset("train"))

    def steps(self, charter: Charter) -> int:
        """Optimiser steps of this site in a round of a federation.

        Raises:
            DataError: the site has fewer training images than a batch.
        """
        federation, batch_size = charter.settings.federation, charter.settings.training.batch_size
        units = self.unit_count(charter)
        if units < batch_size:
            what = "patients" if charter.settings.privacy.unit == "patient" else "training images"
            raise DataError(
                f"site {self.name!r} has fewer {what} than training.batch_size = {batch_size}; lower the batch size or leave the site out"
            )
        return federation.sync_every_n_batch or federation.local_epochs * steps_per_epoch(units, batch_size)

    def units(self, privacy: SitePrivacy) -> Units:
        """What steps sample: the units that ``privacy`` books."""
        return privacy.units(self._patients)

    def unit_count(self, charter: Charter) -> int:
        """Training images, or patients where those are protected: what batches and weights count."""
        return len(set(self._patients)) if charter.settings.privacy.unit == "patient" else len(self.dataset("train"))

    @cached_property
    def _patients(self) -> list[str]:
        return [name for shard in self.shards("train") for name in shard.patients]

    def privacy(self, charter: Charter, steps: int) -> SitePrivacy | None:
        """The keeper of the site's budget in a run of so many ``steps`` a round; None where no site-side privacy is asked for.

        Raises:
            PrivacyError: the target cannot be met.
        """
        settings = charter.settings
        if not settings.privacy.is_by_site:
            return None
        from primia.privacy.ledger import Ledger
        from primia.privacy.site import PrivacyPlan, SitePrivacy

        plan = PrivacyPlan(self.unit_count(charter), settings.training.batch_size, steps, settings.federation.rounds)
        box, federation = self._box(charter), settings.federation.identity
        ledger = Ledger(box.ledger if box else _made(charter.ledgers / self.name) / "privacy.jsonl")

        def limit() -> Limit | None:
            box = self._box(charter)
            return box.limit(federation, plan.units) if box else None

        # Made each time: one that is kept could book by other settings than those that are at work.
        self._privacy[charter.id] = SitePrivacy(
            settings.privacy, plan, ledger, federation=federation, run=charter.run, limit=limit, account=charter.account
        )
        return self._privacy[charter.id]

    def has_spent(self, charter: Charter) -> bool:
        """Whether the site has a privacy budget in this run."""
        return charter.id in self._privacy

    def statement(self, charter: Charter) -> dict[str, object]:
        """What the site has spent, as plain data."""
        return asdict(self._privacy[charter.id].statement())

    def noisy_pixels(self, charter: Charter) -> PixelSums:
        """Sums over pixels with noise, drawn and charged once in a run: the same ones are given again when it is resumed.

        In place of sums and squares they hold what :func:`primia.privacy.statistics.normalisation_of` takes.
        """
        from primia.privacy.noise import SecureGenerator
        from primia.privacy.statistics import noisy_sums

        path = self._folder(charter) / "statistics.json"
        if not path.exists():
            privacy = self.privacy(charter, self.steps(charter))
            if privacy is None:
                raise AssertionError("noisy statistics are for private sites")
            sums = noisy_sums(self.dataset("train"), self.units(privacy), privacy.statistics_noise, SecureGenerator())
            privacy.charge_statistics()
            atomic_text(path, json.dumps(sums.tolist()))
        count, *rest = json.loads(path.read_text())
        return PixelSums(count, tuple(rest[: charter.channels]), tuple(rest[charter.channels :]))

    def identity(self, charter: Charter) -> Identity:
        """The site's keys: those in its box, else made here for the run."""
        if charter.id not in self._identities:
            box, keys = self._box(charter), self._folder(charter) / "keys.json"
            self._identities[charter.id] = box.identity() if box else Identity.load_or_create(self.name, keys)
        return self._identities[charter.id]

    def pin(self, charter: Charter, peer: PublicIdentity) -> None:
        """Keep the key first seen under a name; ProtocolError where another one turns up."""
        trusted = self._trusted.setdefault(charter.id, set())
        if peer in trusted:
            return
        box = self._box(charter)
        if box:
            box.pin(peer)
        else:
            Peers(self._folder(charter), self.name).pin(peer)
        trusted.add(peer)

    def advertise(self, charter: Charter, task: Task) -> Advertisement:
        """Begin an aggregation; an earlier one for the same purpose is forgotten.

        Raises:
            ConsentError, BudgetSpent: the site may not take part.
        """
        self.admit(charter)
        self._agree_on_cohort(charter, task)
        self._check_partners(charter, task.sites, task.sites)
        if task.purpose == "train":
            self.admit_round(charter, task.round, self.steps(charter))
        role = SiteRole(self.identity(charter), task)
        self._roles[charter.id, task.purpose] = role
        return role.advertise()

    def role(self, charter: Charter, purpose: str) -> SiteRole:
        """The aggregation that has begun.

        Raises:
            ProtocolError: none has, for example because the actor was restarted.
        """
        try:
            return self._roles[charter.id, purpose]
        except KeyError:
            raise ProtocolError(f"site {self.name!r} knows of no aggregation for {purpose}: it was restarted since") from None

    def share(self, charter: Charter, purpose: str, roster: Roster) -> dict[str, bytes]:
        """Sealed shares by recipient, once all who are in the sum are known and wanted."""
        role = self.role(charter, purpose)
        self._check_partners(charter, roster.mask_keys, roster.mask_keys)  # before any key is believed
        messages = role.share(roster, lambda peer: self.pin(charter, peer))
        self._check_partners(charter, roster.mask_keys, role.group)
        return messages

    def confirm(self, charter: Charter, purpose: str, survivors: Sequence[str]) -> bytes:
        """Sign who delivered, once it is written down that the sum is over these and no others."""
        role = self.role(charter, purpose)
        self._check_partners(charter, survivors, role.group)
        signature = role.confirm(survivors)
        if not charter.settings.privacy.is_by_site or purpose != "train":  # private training draws anew each time, and pays for it
            self._journal(charter).agree(charter.run, role.task.round, purpose, survivors)
        return signature

    def _agree_on_cohort(self, charter: Charter, task: Task) -> None:
        """Sites that were not there when the run began could be anybody's: no task may name them."""
        self._journal(charter).agree(charter.run, 0, "cohort", charter.sites)
        strangers = set(task.sites) - set(charter.sites)
        if strangers:
            raise ProtocolError(f"site {self.name!r} was asked to aggregate with {sorted(strangers)[0]!r}, which is not of this federation")

    def _check_partners(self, charter: Charter, sites: Collection[str], met: Collection[str]) -> None:
        """Ask the box whether a masked sum may be over ``sites``; the keys of those ``met`` were compared."""
        box = self._box(charter)
        if box:
            box.check_partners(charter.settings.federation.identity, sites, met)

    def _journal(self, charter: Charter) -> Journal:
        if charter.id not in self._journals:
            box = self._box(charter)
            self._journals[charter.id] = Journal((box.path if box else self._folder(charter)) / "aggregations.jsonl")
        return self._journals[charter.id]

    def _box(self, charter: Charter) -> SiteBox | None:
        """The owner's box, opened afresh; None without one, and in a dry run, which leaves no trace in it."""
        if self.plan.box is None or charter.settings.run.dry_run:
            return None
        from primia.federation.site_box import SiteBox

        return SiteBox.open(self.plan.box)

    def _folder(self, charter: Charter) -> Path:
        return _made(charter.state_folder / self.name)

    def finish(self, charter: Charter, purpose: str) -> None:
        """Forget the keys of an aggregation."""
        self._roles.pop((charter.id, purpose), None)

    def leave(self, charter: str) -> None:
        """Forget a federation; what has to outlast it is on disk."""
        for kept in (self._identities, self._trusted, self._privacy, self._journals):
            kept.pop(charter, None)
        self._roles = {key: role for key, role in self._roles.items() if key[0] != charter}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
