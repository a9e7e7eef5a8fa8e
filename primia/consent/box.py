"""The site box: a folder, closed to others, in which a data owner keeps all that a federation may need of a site.

``box.json``
    name, owner and splits; public, as is ``identity/public.json``.
``identity/private.json``
    the site's private keys.
``syft/<owner>/``
    the Syft box: a dataset for each split (:mod:`primia.consent.datasets`).
``grants.json``, ``peers.json``, ``audit.jsonl``, ``audit.head``, ``privacy.jsonl``
    terms of grants, pinned keys, the audit log, the privacy ledger.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Unpack

from pydantic import BaseModel, ConfigDict, Field

from primia.consent.audit_log import AuditEntry, AuditLog, Head
from primia.consent.budgets import Budget, budgets
from primia.consent.datasets import BoxDatasets, site_name
from primia.consent.files import check_mode, check_no_links, read_json, write_json, write_private
from primia.consent.grants import DEFAULT_UNIT, Grant, Grants, Terms
from primia.consent.mock import write_mock
from primia.consent.peers import Peer, Peers
from primia.data import closed
from primia.data.catalogue import SPLITS
from primia.data.shard import Shard, write_marked
from primia.errors import ConsentError
from primia.files import keep_private, own_folder
from primia.privacy.delta import check_delta
from primia.privacy.ledger import Ledger
from primia.privacy.spend import Limit
from primia.secagg.identity import Identity, PublicIdentity
from primia.untrusted.documents import validated
from primia.untrusted.files import Unusable, printable, read_file

CARD_FILE = closed.CARD_FILE
FORMAT = closed.FORMAT
VERSION = 1
LEDGER_FILE = "privacy.jsonl"
TRAIN = "train"

_SYFT_FOLDER = "syft"


_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Card(BaseModel):
    """What a box says of itself."""

    model_config = ConfigDict(strict=True, extra="ignore")

    format: str
    version: int
    site: _Name
    owner: _Name
    datasets: Annotated[list[_Name], Field(min_length=1, max_length=len(SPLITS))]


class SiteBox:
    """One site's box, opened; see :meth:`open`. Nothing is cached but what never changes: name, owner, splits, public keys."""

    def __init__(self, path: Path, datasets: BoxDatasets) -> None:
        self.path = path
        self.name = datasets.site
        self.owner = datasets.owner
        self.splits = datasets.names
        self.ledger = path / LEDGER_FILE
        """Where the privacy ledger belongs."""
        self._datasets = datasets
        self._grants = Grants(path, datasets)
        self._peers = Peers(path, self.name)
        self._log = AuditLog(path / "audit.jsonl")

    @classmethod
    def open(cls, path: Path) -> SiteBox:
        """The box at ``path``; neither private keys nor private halves are opened.

        Raises:
            ConsentError: no box, one of another format, or one that others than its owner can read.
        """
        if path.is_symlink() or not (path / CARD_FILE).is_file():
            raise ConsentError(f"{path}: no site box; make one with primia-ray site init BOX --data SHARDS")
        card = read_json(path / CARD_FILE)
        if (card.get("format"), card.get("version")) != (FORMAT, VERSION):
            found = printable(f"{card.get('format')} {card.get('version')}", 60)
            raise ConsentError(f"{path}: a box of format {found}, this version reads {FORMAT} {VERSION}; make it again")
        path = path.resolve()
        try:
            told: _Card = validated(_Card, card)
            datasets = BoxDatasets(path / _SYFT_FOLDER, told.owner, told.site, told.datasets)
        except (Unusable, ConsentError) as error:
            raise ConsentError(f"{path / CARD_FILE}: not as it was written ({error}); restore it from a backup") from None
        box = cls(path, datasets)
        box.check_closed()
        return box

    @property
    def _private_keys(self) -> Path:
        return self.path / "identity" / "private.json"

    @cached_property
    def public(self) -> PublicIdentity:
        """The site's public keys."""
        return PublicIdentity(self.name, self.public_document())

    def public_document(self) -> str:
        """The public keys as the text to hand out; :class:`ConsentError` if they are missing."""
        try:
            return read_file(self.path / "identity" / "public.json").decode().strip()
        except (OSError, ValueError) as error:
            raise ConsentError(f"{self.path}: has no public keys ({printable(error)}); restore identity/ from a backup") from None

    def identity(self) -> Identity:
        """The site's private keys, for this process only.

        Raises:
            ConsentError: missing, open to others, or not those that the public keys belong to.
        """
        self.check_closed()
        if not self._private_keys.is_file():
            raise ConsentError(
                f"{self._private_keys}: missing; restore it from a backup, new keys would be refused by sites that pinned these"
            )
        identity = Identity.load_or_create(self.name, self._private_keys)
        if identity.public.key != self.public.key:
            raise ConsentError(f"{self.path}: private and public keys do not belong together; restore identity/ from a backup")
        return identity

    def check_closed(self) -> None:
        """Raise :class:`ConsentError` where others may enter the box or read its private keys, or where it holds a symbolic link."""
        check_no_links(self.path)
        check_mode(self.path, "a site box", "chmod 700 it")
        if self._private_keys.exists():
            check_mode(self._private_keys, "private keys", "chmod 600 it, and make a new box if somebody may have read them")

    def shard(self, split: str, dry_run: bool) -> Path:
        """Path of a split's private half, or of its mock half for a dry run; :class:`ConsentError` if the site has no such split.

        The path alone gives no right: call :meth:`check_grant` each time before a private half is opened.
        """
        if split not in self.splits:
            raise ConsentError(f"site {self.name!r} has no dataset {split!r}; it holds {', '.join(self.splits)}")
        return self._datasets.shard(split, mock=dry_run)

    @property
    def synthetic(self) -> bool:
        """Whether the private halves are synthetic images, by their public description."""
        return all(self._datasets.synthetic(split) for split in self.splits)

    def units(self, unit: str) -> int:
        """Training images, or patients, in the private half, which is opened; 0 without one."""
        if TRAIN not in self.splits:
            return 0
        shard = Shard.open(self.shard(TRAIN, dry_run=False), box=self.path)
        return len(set(shard.patients)) if unit == "patient" else len(shard)

    def dataset_id(self, split: str) -> str:
        """A random number that changes when the dataset is made anew."""
        return self._datasets.uid(split)

    def check_grant(self, federation: str) -> Grant:
        """The grant of ``federation``, read afresh; :class:`ConsentError` with the reason if there is none that holds."""
        self.check_closed()
        return self._grants.check(federation)

    def max_epsilon(self, federation: str) -> float | None:
        """The owner's cap on epsilon over all runs of ``federation``, None if without; errors as :meth:`check_grant`."""
        return self.check_grant(federation).max_epsilon

    def limit(self, federation: str, units: int) -> Limit | None:
        """The cap with the delta and the unit that it is about, for a site of so many units; errors as :meth:`check_grant`."""
        return self.check_grant(federation).limit(units)

    def budgets(self) -> tuple[Budget, ...]:
        """What each federation may spend and has spent, by grants and ledger; the private half is opened to count units."""
        return budgets(self.grants(), Ledger(self.ledger).charges(), self.units)

    def pinned_by_owner(self) -> frozenset[str]:
        """Names whose keys the owner has pinned."""
        return self._peers.by_owner()

    def check_partners(self, federation: str, sites: Collection[str], met: Collection[str]) -> None:
        """Raise :class:`ConsentError` where ``federation`` may not have a masked sum over ``sites``.

        ``met``: those of them whose keys were compared with the pinned ones.
        """
        others, known = set(sites) - {self.name}, set(met) - {self.name}
        self.check_grant(federation).check_partners(others, others & known, self.pinned_by_owner())

    def grants(self) -> tuple[Grant, ...]:
        """Every federation that ever had a grant."""
        return self._grants.all()

    def grant(self, federation: str, **terms: Unpack[Terms]) -> Grant:
        """Grant, as :meth:`primia.consent.grants.Grants.grant`, and log it; nothing is granted where the log is not whole.

        Raises:
            PrivacyError: a cap at a delta that is too large for the site's units.
        """
        self.check_closed()
        self.audit_log()
        if terms.get("delta") is not None:
            unit = terms.get("unit", DEFAULT_UNIT)
            check_delta(terms["delta"], self.units(unit), unit=unit, where="(--delta)")
        grant = self._grants.grant(federation, **terms)
        self.audit({"purpose": "grant", "federation": federation, **grant.terms()})
        return grant

    def revoke(self, federation: str) -> Grant:
        """Revoke, as :meth:`primia.consent.grants.Grants.revoke`, and log it; revoked it is even where that fails."""
        self.check_closed()
        grant = self._grants.revoke(federation)
        self.audit({"purpose": "revoke", "federation": federation})
        return grant

    def peers(self) -> dict[str, Peer]:
        """Pinned sites by name."""
        return self._peers.all()

    def pinned(self, name: str) -> bytes | None:
        """The pinned Ed25519 key of a site, 32 bytes; None before first contact."""
        peer = self._peers.get(name)
        return peer.key if peer else None

    def pin(self, peer: PublicIdentity, *, by_owner: bool = False, replace: bool = False) -> bool:
        """Pin, as :meth:`primia.consent.peers.Peers.pin`, and log what is new."""
        new = self._peers.pin(peer, by_owner=by_owner, replace=replace)
        if new:
            self.audit({"purpose": "pin", "site": peer.name, "fingerprint": peer.fingerprint, "by": self.peers()[peer.name].by})
        return new

    def audit(self, event: Mapping[str, Any]) -> None:
        """Append ``event`` to the audit log, on the disk when this returns; JSON values, finite numbers.

        Shown are ``purpose``, ``federation``, ``run``, ``round``, ``images``, ``epsilon`` (spent by this federation so far, over
        all its runs) and ``outcome``; the rest is kept.
        """
        self._log.append(event)

    def audit_log(self) -> tuple[AuditEntry, ...]:
        """All entries, verified; :class:`ConsentError` names a line that was edited, removed or added."""
        return self._log.read()

    def audit_head(self) -> Head:
        """Where the log ends, for the owner to keep elsewhere."""
        return self._log.head()


def fill_box(folder: Path, *, owner: str, shards: Sequence[Shard]) -> None:
    """Make a box of one site's ``shards`` in the empty ``folder``: keys, datasets, log.

    Raises:
        ConsentError: the site's or the owner's name is not fit for one, or a shard is a symbolic link.
        DataError: a full or unwritable disk.
    """
    site = site_name(shards[0].site)
    folder.chmod(0o700)
    datasets = BoxDatasets(folder / _SYFT_FOLDER, owner, site, [shard.split for shard in shards])
    (folder / "identity").mkdir(mode=0o700)
    identity = Identity.load_or_create(site, folder / "identity" / "private.json")
    write_private(folder / "identity" / "public.json", identity.public.document + "\n")
    datasets.folder.mkdir()
    for shard in shards:
        if shard.path.is_symlink():
            raise ConsentError(f"{shard.path}: not one file {site}.arrow but a link, which a site box may not hold; give the file itself")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mock.") as scratch:
            mock, private = (own_folder(Path(scratch, half)) / f"{site}.arrow" for half in ("mock", "private"))
            write_mock(mock, shard.header)
            write_marked(private, shard, owner)
            datasets.create(shard.split, mock=mock, private=private, synthetic=shard.synthetic)
    write_json(folder / CARD_FILE, {"format": FORMAT, "version": VERSION, "site": site, "owner": owner, "datasets": datasets.names})
    keep_private(folder)
    AuditLog(folder / "audit.jsonl").append({"purpose": "init", "site": site, "images": {shard.split: len(shard) for shard in shards}})
