"""One site at its host: its images, its keys, whom it has pinned, and what its owner allows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

from primia.consent.peers import Peers
from primia.data.closed import refuse_box
from primia.data.statistics import PixelSums
from primia.errors import ConsentError, ProtocolError
from primia.federation.messages import Charter
from primia.federation.site.allowance import Allowance
from primia.federation.site.journal import Agreements, Journal, Sum
from primia.federation.site.log import FILE, SiteLog
from primia.federation.sources import BoxedSite, PackedSite, SiteImages, SiteSource
from primia.files import atomic_text, private_folder
from primia.privacy.delta import check_delta
from primia.privacy.spend import Limit
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Advertisement, Roster, Shares, Task
from primia.secagg.ring import RingVector
from primia.secagg.site import SiteRole
from primia.training.batches import steps_per_epoch
from primia.untrusted.files import read_file

if TYPE_CHECKING:  # Syft, Opacus and a compiler take most of a second to load, and most runs need none of them
    from primia.consent.box import SiteBox
    from primia.privacy.sampling import Units
    from primia.privacy.site import SitePrivacy


TOO_MANY = "more calls that need no grant (refused ones, dry runs) than are listed; the next line of one tells how many are not"

_DRY_RUNS = 8
"""Dry runs of which something is kept."""

_LONGEST = 500
"""Bytes of the longest text in a line of the audit log."""

_MOST = 100


class Member:
    """A site, as its worker was started.

    One with a box asks its owner's grants before each piece of work, and has its shards, keys and books there. One without was packed by
    whoever started the run.
    """

    def __init__(self, source: SiteSource) -> None:
        self.source = source
        self.name = source.name
        self._images: dict[bool, SiteImages] = {}
        self._identities: dict[str, Identity] = {}
        self._trusted: dict[str, set[PublicIdentity]] = {}
        self._roles: dict[tuple[str, str], SiteRole] = {}
        self._works: dict[tuple[str, str], str] = {}
        self._privacy: dict[str, SitePrivacy] = {}
        self._agreed = Agreements()
        self._free = Allowance()

    def admit(self, charter: Charter) -> None:
        """Read the owner's grants afresh. A dry run needs none, and opens mock halves only.

        Raises:
            ConsentError: the federation is not granted, not any more, or not with so little protection; or the box is another site's.
            PrivacyError: delta is too large for the site's images or patients.
            ProtocolError: the charter does not name the site.
        """
        settings = charter.settings
        if self.name not in charter.sites:
            raise ProtocolError(f"site {self.name!r} is not of this federation: {', '.join(charter.sites[:3])} ...")
        box = self._box(charter)
        if box is None:
            self.images(charter).check()
        else:
            grant = box.check_grant(settings.federation.identity)
            grant.check_protection(secure=charter.is_secure, sealed=charter.is_sealed)
            grant.check_unit(settings.privacy.unit)
            if charter.is_secure:
                grant.check_known(box.pinned_by_owner())
        if settings.privacy.is_by_site and self.name in charter.training:
            check_delta(settings.privacy.delta, self.unit_count(charter), unit=settings.privacy.unit, where="(privacy.delta)")

    def admit_round(self, charter: Charter, round_: int, steps: int) -> None:
        """Raise :class:`BudgetSpent` where the privacy budget does not allow a round."""
        privacy = self.privacy(charter, steps)
        if privacy:
            privacy.admit(round_, steps)

    def log(self, charter: Charter) -> SiteLog:
        """The site's own log of errors: in its box, else with what it keeps of the run."""
        return SiteLog(
            (self.source.box if isinstance(self.source, BoxedSite) and not charter.settings.run.dry_run else self.folder(charter)) / FILE
        )

    def note(self, charter: Charter, event: Mapping[str, object]) -> None:
        """Append to the box's audit log who did what on this site's data, or, in a dry run, on the mock half of it."""
        said = {"federation": charter.settings.federation.identity, "run": charter.run, **event}
        if charter.settings.run.dry_run:
            self._note_freely({**said, "outcome": f"dry run: {event['outcome']}"})
        else:
            self._audit(said)

    def note_refusal(self, charter: Charter | None, event: Mapping[str, object]) -> None:
        """Append that a call was refused, one without a charter because it cannot be read; beyond an allowance, count it instead."""
        who = {} if charter is None else {"federation": charter.settings.federation.identity, "run": charter.run}
        self._note_freely({**who, **event})

    def _note_freely(self, event: Mapping[str, object]) -> None:
        """Append what needs no grant."""
        before = self._free.unlisted
        if self._free.take():
            self._free.unlisted = 0
            self._audit({**event, "unlisted": before} if before else event)
        elif not before:
            self._audit({"purpose": "many calls", "outcome": TOO_MANY})

    def _audit(self, event: Mapping[str, object]) -> None:
        box = self._own_box()
        if box:
            box.audit({key: _said(value) for key, value in event.items()})

    def images(self, charter: Charter) -> SiteImages:
        """The site's images: in a dry run those of the mock halves."""
        mock = charter.settings.run.dry_run
        if mock not in self._images:
            box = self._own_box()
            if box is not None:
                paths = {split: (box.shard(split, mock),) for split in box.splits}
                self._images[mock] = SiteImages(paths, box=box.path, mock=mock)
            elif isinstance(self.source, PackedSite):
                self._images[mock] = SiteImages(self.source.shards, box=None, mock=mock)
        return self._images[mock]

    def steps(self, charter: Charter) -> int:
        """Optimiser steps of this site in a round of a federation.

        A site of fewer images than a batch makes them one batch. Were it left out instead, a driver that asks with one batch size after
        the other would learn how many images it has.
        """
        federation, batch_size = charter.settings.federation, charter.settings.training.batch_size
        return federation.sync_every_n_batch or federation.local_epochs * steps_per_epoch(self.unit_count(charter), batch_size)

    def units(self, charter: Charter, privacy: SitePrivacy) -> Units:
        """What steps sample: the units that ``privacy`` books."""
        return privacy.units(self.images(charter).patients)

    def unit_count(self, charter: Charter) -> int:
        """Training images, or patients where those are protected: what batches and weights count."""
        images = self.images(charter)
        return len(set(images.patients)) if charter.settings.privacy.unit == "patient" else len(images.dataset("train"))

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
        ledger = Ledger(box.ledger if box else self._ledgers(charter) / "privacy.jsonl")

        def limit() -> Limit | None:
            box = self._box(charter)
            return box.limit(federation, plan.units) if box else None

        # Made each time: one that is kept could book by other settings than those that are at work.
        self._privacy[charter.id] = SitePrivacy(
            settings.privacy, plan, ledger, federation=federation, run=charter.run, limit=limit, account=charter.account
        )
        return self._privacy[charter.id]

    def _ledgers(self, charter: Charter) -> Path:
        """Where a site without a box, or a dry run, keeps its ledger: never in the box, whose budget is the owner's."""
        if isinstance(self.source, BoxedSite) or charter.account is None:
            return self.folder(charter)
        folder = charter.ledgers / self.name
        refuse_box(folder)
        return private_folder(folder)

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

        path = self.folder(charter) / "statistics.json"
        privacy = self.privacy(charter, self.steps(charter))
        if privacy is None:
            raise AssertionError("noisy statistics are for private sites")
        if not (path.exists() and privacy.has_charged_statistics()):
            sums = noisy_sums(
                self.images(charter).dataset("train"), self.units(charter, privacy), privacy.statistics_noise, SecureGenerator()
            )
            privacy.charge_statistics()
            atomic_text(path, json.dumps(sums.tolist()))
        count, *rest = json.loads(read_file(path))
        return PixelSums(count, tuple(rest[: charter.channels]), tuple(rest[charter.channels :]))

    def identity(self, charter: Charter) -> Identity:
        """The site's keys: those in its box, else made here for the run."""
        if charter.id not in self._identities:
            box, keys = self._box(charter), self.folder(charter) / "keys.json"
            self._identities[charter.id] = box.identity() if box else Identity.load_or_create(self.name, keys)
        return self._identities[charter.id]

    def pin(self, charter: Charter, peer: PublicIdentity) -> None:
        """Keep the key first seen under a name; ProtocolError where another one turns up.

        A box is asked each time, since its owner may have replaced a key.
        """
        box, trusted = self._box(charter), self._trusted.setdefault(charter.id, set())
        if box:
            box.pin(peer)
        elif peer not in trusted:
            Peers(self.folder(charter), self.name).pin(peer)
            trusted.add(peer)

    def advertise(self, charter: Charter, task: Task) -> Advertisement:
        """Begin an aggregation; an earlier one for the same purpose is forgotten.

        Raises:
            BudgetSpent: the site has no budget for the round.
            ProtocolError: the sites of this run were others before.
        """
        self._check_partners(charter, task.sites, task.sites)
        # Sites that were not there when the run began could be anybody's.
        self._agree(charter, Sum.cohort(charter.settings.federation.identity, charter.run, charter.sites))
        if task.purpose == "train":
            self.admit_round(charter, task.round, self.steps(charter))
        role = SiteRole(self.identity(charter), task)
        self._roles[charter.id, task.purpose] = role
        self._works.pop((charter.id, task.purpose), None)
        return role.advertise()

    def role(self, charter: Charter, purpose: str) -> SiteRole:
        """The aggregation that has begun.

        Raises:
            ProtocolError: none has, for example because the actor was restarted.
        """
        try:
            return self._roles[charter.id, purpose]
        except KeyError:
            raise ProtocolError(
                f"site {self.name!r} knows of no aggregation for {purpose}: it was restarted since, or refused a step"
            ) from None

    def share(self, charter: Charter, purpose: str, roster: Roster) -> dict[str, bytes]:
        """Sealed shares by recipient, once all who are in the sum are known and wanted."""
        with self._aggregating(charter, purpose) as role:
            self._check_partners(charter, roster.mask_keys, roster.mask_keys)  # before any key is believed
            messages = role.share(roster, lambda peer: self.pin(charter, peer))
            self._check_partners(charter, roster.mask_keys, role.group)
            return messages

    def mask(self, charter: Charter, purpose: str, vector: RingVector, inbox: Mapping[str, bytes], terms: str, work: str) -> RingVector:
        """``vector`` under masks, in place; ``work`` is what the sum will be known by in the journal."""
        with self._aggregating(charter, purpose) as role:
            masked = role.mask(vector, inbox, terms)
            self._works[charter.id, purpose] = work
            return masked

    def confirm(self, charter: Charter, purpose: str, survivors: Sequence[str]) -> bytes:
        """Sign who delivered, once it is written down that the sum is over these and no others."""
        with self._aggregating(charter, purpose) as role:
            self._check_partners(charter, survivors, role.group)
            signature = role.confirm(survivors)
            federation, work = charter.settings.federation.identity, self._works[charter.id, purpose]
            self._agree(charter, Sum(federation, charter.run, role.task.round, purpose, tuple(survivors), work))
            return signature

    def unmask(self, charter: Charter, purpose: str, confirmations: Mapping[str, bytes]) -> Shares:
        """The shares that open the sum; the keys of the aggregation are forgotten."""
        with self._aggregating(charter, purpose) as role:
            shares = role.unmask(confirmations)
        self._forget(charter, purpose)
        return shares

    @contextmanager
    def _aggregating(self, charter: Charter, purpose: str) -> Iterator[SiteRole]:
        """The role of an aggregation, which is over for this site after any fault: it helps with no further step."""
        role = self.role(charter, purpose)
        try:
            yield role
        except BaseException:
            self._forget(charter, purpose)
            raise

    def _forget(self, charter: Charter, purpose: str) -> None:
        self._roles.pop((charter.id, purpose), None)
        self._works.pop((charter.id, purpose), None)

    def _agree(self, charter: Charter, asked: Sum) -> None:
        """Remember which sites a sum is over: in the box, or, without one, beside the run and as long as the worker lives."""
        box = self._box(charter)
        if box is None:
            self._agreed.check(asked)
        Journal((box.path if box else self.folder(charter)) / "aggregations.jsonl").agree(asked)
        if box is None:
            self._agreed.add(asked)

    def _check_partners(self, charter: Charter, sites: Collection[str], met: Collection[str]) -> None:
        """Ask the box whether a masked sum may be over ``sites``; the keys of those ``met`` were compared."""
        box = self._box(charter)
        if box:
            box.check_partners(charter.settings.federation.identity, sites, met)

    def _own_box(self) -> SiteBox | None:
        """The box that the worker was started with, opened afresh; None for a site without one.

        Raises:
            ConsentError: it cannot be used, or is another site's.
        """
        if not isinstance(self.source, BoxedSite):
            return None
        from primia.consent.box import SiteBox

        box = SiteBox.open(self.source.box)
        if box.name != self.name:
            raise ConsentError(f"{box.path}: the box of site {box.name!r}, not of {self.name!r}; start each site's worker with its own box")
        return box

    def _box(self, charter: Charter) -> SiteBox | None:
        """The box, for keys and books; None without one, and in a dry run, which leaves lines in its log and nothing else."""
        return None if charter.settings.run.dry_run else self._own_box()

    def folder(self, charter: Charter) -> Path:
        """Where the site keeps what is a run's own: in its box, or, without one, where the charter says.

        In a box it is filed by federation and run: a run's name alone is the driver's choice, and could be another federation's.
        """
        if not isinstance(self.source, BoxedSite):
            folder = charter.state_folder / self.name
            refuse_box(folder)
            return private_folder(folder)
        name = json.dumps([charter.settings.federation.identity, charter.run])
        place = hashlib.sha256(name.encode()).hexdigest()[:16]
        if charter.settings.run.dry_run:
            return _one_of_few(self.source.box / "dry-runs", place)
        return private_folder(self.source.box / "runs" / place)

    def learner_folder(self, charter: Charter) -> Path:
        """Where the state is that a learner goes on from: what was made for another unit, or is of another form, is in another folder.

        Otherwise a driver would have a site train without protection first, and then release that state under a little noise. And a
        state that does not fit would fail at the sites that have one, which would tell whose round before did not.
        """
        unit, settings = charter.settings.privacy.unit, charter.settings
        form = [
            unit, settings.model.name, settings.model.normalisation, settings.training.optimizer,
            settings.federation.batchnorm, settings.federation.keep_optimizer_state,
        ]  # fmt: skip
        return self.folder(charter) / hashlib.sha256(json.dumps(form).encode()).hexdigest()[:16]

    def leave(self, charter: str) -> None:
        """Forget a federation; what has to outlast it is on disk."""
        for kept in (self._identities, self._trusted, self._privacy):
            kept.pop(charter, None)
        self._roles = {key: role for key, role in self._roles.items() if key[0] != charter}
        self._works = {key: work for key, work in self._works.items() if key[0] != charter}


def _one_of_few(folder: Path, name: str) -> Path:
    """A folder of this name, for which the oldest of too many others go: a dry run needs no grant, so anybody can begin any number."""
    if not (folder / name).is_dir():
        others = sorted(private_folder(folder).iterdir(), key=lambda path: path.stat().st_mtime)
        for old in others[: max(0, len(others) - _DRY_RUNS + 1)]:
            shutil.rmtree(old)
    return private_folder(folder / name)


def _said(value: object, levels: int = 3) -> object:
    """A value of an event with all texts in it shortened, and no more than 100 values in each of three levels."""
    if isinstance(value, str):
        return _line(value)
    if not isinstance(value, Mapping | list | tuple):
        return value
    if not levels:
        return "..."
    if isinstance(value, Mapping):
        return {_line(str(key)): _said(each, levels - 1) for key, each in islice(value.items(), _MOST)}
    return [_said(each, levels - 1) for each in value[:_MOST]]


def _line(text: str) -> str:
    """A driver's words as one line that a terminal only shows, of at most 500 bytes as JSON, where a letter takes up to twelve."""
    letters = [letter if letter.isprintable() else "?" for letter in text[:_LONGEST]]
    ends = accumulate(len(json.dumps(letter)) - 2 for letter in letters)
    return "".join(letter for letter, end in zip(letters, ends, strict=True) if end <= _LONGEST)
