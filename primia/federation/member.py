"""One site at its host: its images, its keys, whom it has pinned, and what its owner allows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from primia.data.shard import Dataset, JoinedDataset, Shard
from primia.data.statistics import PixelSums, pixel_sums
from primia.errors import DataError, ProtocolError
from primia.federation.exchange import Charter
from primia.federation.peers import Peers
from primia.federation.plan import SitePlan
from primia.federation.site_box import SiteBox
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Advertisement, Task
from primia.secagg.site import SiteRole
from primia.training.batches import steps_per_epoch


class Member:
    """A site. One with a box asks its owner's grants before each piece of work; one without was packed by whoever started the run."""

    def __init__(self, plan: SitePlan) -> None:
        self.plan = plan
        self.name = plan.name
        self._data: dict[str, Dataset] = {}
        self._identities: dict[str, Identity] = {}
        self._trusted: dict[str, set[PublicIdentity]] = {}
        self._roles: dict[tuple[str, str], SiteRole] = {}

    def admit(self, charter: Charter) -> None:
        """Read the owner's grants afresh.

        Raises:
            ConsentError: the federation is not granted, or not any more.
        """
        if self.plan.box and not charter.settings.run.dry_run:
            SiteBox.open(self.plan.box).check_grant(charter.settings.federation.identity)

    def note(self, charter: Charter, event: Mapping[str, object]) -> None:
        """Append to the box's audit log who did what on this site's data."""
        if self.plan.box and not charter.settings.run.dry_run:
            who = {"federation": charter.settings.federation.identity, "run": charter.run}
            SiteBox.open(self.plan.box).audit({**who, **event})

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
        images = len(self.dataset("train"))
        if images < batch_size:
            raise DataError(
                f"site {self.name!r} has fewer training images than training.batch_size = {batch_size}; "
                "lower the batch size or leave the site out"
            )
        return federation.sync_every_n_batch or federation.local_epochs * steps_per_epoch(images, batch_size)

    def identity(self, charter: Charter) -> Identity:
        """The site's keys: those in its box, else made here for the run."""
        if charter.id not in self._identities:
            folder = charter.state_folder / self.name
            self._identities[charter.id] = (
                SiteBox.open(self.plan.box).identity() if self.plan.box else Identity.load_or_create(self.name, folder / "keys.json")
            )
        return self._identities[charter.id]

    def pin(self, charter: Charter, peer: PublicIdentity) -> None:
        """Keep the key first seen under a name; ProtocolError where another one turns up."""
        trusted = self._trusted.setdefault(charter.id, set())
        if peer in trusted:
            return
        if self.plan.box:
            SiteBox.open(self.plan.box).pin(peer)
        else:
            Peers(charter.state_folder / self.name, self.name).pin(peer)
        trusted.add(peer)

    def advertise(self, charter: Charter, task: Task) -> Advertisement:
        """Begin an aggregation; an earlier one for the same purpose is forgotten."""
        self.admit(charter)
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

    def finish(self, charter: Charter, purpose: str) -> None:
        """Forget the keys of an aggregation."""
        self._roles.pop((charter.id, purpose), None)
