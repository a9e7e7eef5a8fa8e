"""The owner's consent: which federations may train on a site's private halves, with whom, until when and up to which epsilon.

A grant stands twice: as a reader in Syft's permission file of every private half, and as terms beside it. A check reads both
afresh and wants both. Syft would also honour patterns for many (``*``, ``*@domain``, ``USER``), files higher up and rights to
write; here a permission file may hold nothing but readers by name, so that a slip of the pen lets nobody in.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from syft_perms import SyftPermContext
from syft_perms.syftperm_modifier import PERMISSION_FILE_NAME, RuleSet

from primia.consent.datasets import BoxDatasets, identity_name
from primia.consent.files import locked, read_json, write_json, write_private
from primia.consent.peers import Time, check_name
from primia.errors import ConsentError, NotGranted, ProtectionError, UnknownPartner
from primia.privacy.delta import default_delta
from primia.privacy.spend import Limit
from primia.untrusted.documents import validated
from primia.untrusted.files import Unusable, printable
from primia.untrusted.yaml_files import check_yaml

_EVERYTHING = "**"
"""Syft's pattern for all files of a folder."""

Protection = Literal["secure", "sealed", "any"]
"""The least that an owner asks for where updates leave the site: masked, so that only sums over sites are seen (secure aggregation);
sealed for the driver alone; or as they are."""

DEFAULT_PROTECTION: Protection = "secure"

Unit = Literal["image", "patient"]
"""Whom an owner's cap on epsilon is about."""

DEFAULT_UNIT: Unit = "patient"


class Terms(TypedDict, total=False):
    """What an owner may ask of a federation; what is not given is as in :class:`Grant`."""

    max_epsilon: float | None
    delta: float | None
    unit: Unit
    until: date | None
    require: Protection
    partners: tuple[str, ...]
    pinned: int
    first_contact: bool


@dataclass(frozen=True)
class Grant:
    """The terms on which a federation may use a site's data.

    ``max_epsilon`` caps the privacy loss over all runs of this federation, at ``delta`` (None: that of :mod:`primia.privacy.delta` for the
    site's units) and for each ``unit``, whatever a run names; None: no cap of the owner's. ``until`` is the last day, ``granted`` and
    ``revoked`` are times, in UTC. ``require`` is the least protection of updates. A masked sum may be over ``partners`` only (none named:
    over any), whose keys the owner must have pinned, all of them; with ``first_contact`` at least so many as ``pinned``.
    """

    federation: str
    granted: str
    max_epsilon: float | None = None
    until: date | None = None
    revoked: str | None = None
    require: Protection = DEFAULT_PROTECTION
    delta: float | None = None
    unit: Unit = DEFAULT_UNIT
    partners: tuple[str, ...] = ()
    pinned: int = 0
    first_contact: bool = False

    @property
    def state(self) -> str:
        """``revoked``, ``expired`` or ``granted``."""
        if self.revoked:
            return "revoked"
        return "expired" if self.until and today() > self.until else "granted"

    def terms(self) -> dict[str, Any]:
        """The terms as JSON values."""
        terms = asdict(self)
        for key in ("federation", "granted", "revoked"):
            del terms[key]
        return {**terms, "until": self.until and self.until.isoformat(), "partners": list(self.partners)}

    def limit(self, units: int) -> Limit | None:
        """The cap, for a site of so many units."""
        if self.max_epsilon is None:
            return None
        delta = self.delta or default_delta(units)
        return Limit(self.max_epsilon, "the data's owner", "ask the owner for more", delta, self.unit)

    def check_unit(self, unit: str) -> None:
        """Compare whom a run protects with whom the cap is about: epsilon for the one bounds nothing for the other.

        Raises:
            ConsentError: the cap cannot be kept.
        """
        if self.max_epsilon is None or unit == self.unit:
            return
        other = f", or the owner can grant it for those: primia-ray site grant BOX {self.federation} --unit {unit}"
        raise ProtectionError(
            f"federation {self.federation} is granted epsilon = {self.max_epsilon:g} for each {self.unit}, but this run has privacy.unit = "
            f"{unit}, which does not bound that; set privacy.unit = {self.unit}{other if unit in get_args(Unit) else ''}"
        )

    def check_partners(self, names: Collection[str], met: Collection[str], by_owner: Collection[str]) -> None:
        """Compare the other sites of a masked sum, ``names``, with those that the owner wants or knows.

        ``met``: those whose keys were compared with the pinned ones; ``by_owner``: those that the owner has pinned.

        Raises:
            ConsentError: a sum over these sites may show too much.
        """
        if self.partners and (strangers := set(names) - set(self.partners)):
            raise self._bad_sum(f"with {min(strangers)}, but is granted sums with {', '.join(self.partners)} only")
        if not self.first_contact and (unknown := set(names) - set(by_owner)):
            raise self._bad_sum(
                f"with {min(unknown)}, whose key the owner has not pinned: primia-ray site pin BOX FILE; or grant it with --first-contact, "
                "which believes the key first seen under a name"
            )
        if (known := len(set(met) & set(by_owner))) < self.pinned:
            raise self._bad_sum(f"with {known} other sites that the owner has pinned, but is granted sums with at least {self.pinned}")

    def check_known(self, by_owner: Collection[str]) -> None:
        """Demand that there can be a masked sum at all: that the owner has pinned somebody, or does not ask for it.

        Raises:
            ConsentError: too few of those that are wanted are pinned.
        """
        known = set(by_owner) & set(self.partners) if self.partners else set(by_owner)
        least = self.pinned if self.first_contact else max(1, self.pinned)
        if len(known) < least:
            raise UnknownPartner(
                f"a masked sum needs {least} other site(s) whose keys the owner has pinned, {len(known)} are: primia-ray site pin BOX "
                "FILE; or grant it with --first-contact, which believes the key first seen under a name"
            )

    def _bad_sum(self, why: str) -> UnknownPartner:
        return UnknownPartner(f"federation {self.federation} asks for a masked sum {why}")

    def check_protection(self, *, secure: bool, sealed: bool) -> None:
        """Compare what is asked for with how updates would leave: masked (``secure``), ``sealed`` for the driver, or neither.

        Masked ones are better protected than sealed ones, so they do for both. Local training sends models of one site in clear.

        Raises:
            ConsentError: the owner asks for more.
        """
        if secure or self.require == "any" or (sealed and self.require == "sealed"):
            return
        asked = "masked (secure_aggregation.enabled = yes)" if self.require == "secure" else "sealed or masked"
        planned, enough = ("sealed", "sealed") if sealed else ("in clear", "any")
        raise ProtectionError(
            f"federation {self.federation} would get updates {planned}, but is granted them {asked} only, with run.mode = federated; "
            f"the owner can allow it: primia-ray site grant BOX {self.federation} --require {enough}"
        )


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


_Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
_Name = Annotated[str, Field(min_length=1, max_length=300)]


class _Written(BaseModel):
    """Terms as they stand in the file; those that an earlier version did not know have their defaults.

    What is not known, or not of its type, may be meant to hold a federation back: it is refused rather than passed over.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    granted: Time
    max_epsilon: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None
    until: _Day | None
    revoked: Time | None
    require: Protection = DEFAULT_PROTECTION
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    unit: Unit = DEFAULT_UNIT
    partners: list[_Name] = []
    pinned: Annotated[int, Field(ge=0, le=10**6)] = 0
    first_contact: bool = False


def today() -> date:
    """The day in UTC."""
    return datetime.now(UTC).date()


class Grants:
    """Grants on the datasets of one box; ``folder`` is the box."""

    def __init__(self, folder: Path, datasets: BoxDatasets) -> None:
        self._folder = folder
        self._datasets = datasets
        self._terms_path = folder / "grants.json"

    def all(self) -> tuple[Grant, ...]:
        """Every federation that ever had a grant, by name."""
        return tuple(_grant(self._terms_path, name, terms) for name, terms in sorted(read_json(self._terms_path, missing={}).items()))

    def check(self, federation: str) -> Grant:
        """The grant of ``federation``, as the files say at this moment.

        Raises:
            ConsentError: never granted, revoked or expired; or a permission file lets in more than federations by name.
        """
        self._check_name(federation)
        with locked(self._folder, shared=True):
            self._check_files()
            grant = {grant.federation: grant for grant in self.all()}.get(federation)
            readers = self._readers(federation)
        return self._valid(federation, grant, readers)

    def grant(self, federation: str, **terms: Unpack[Terms]) -> Grant:
        """Let ``federation`` read every private half, on these terms; they replace earlier ones.

        Raises:
            ConsentError: no single federation, terms without meaning, or the box as for :meth:`check`.
        """
        self._check_name(federation)
        grant = Grant(federation, _now(), **terms)
        _check_terms(grant, self._datasets.site)
        with locked(self._folder):
            self._check_files()
            self._write_terms(grant)
            self._change("grant_read_access", federation)
        return grant

    def revoke(self, federation: str) -> Grant:
        """Take the grant back; it ends for every check from now on, even where Syft's files cannot be mended.

        Raises:
            ConsentError: there never was one, or a permission file holds more than federations by name.
        """
        self._check_name(federation)
        with locked(self._folder):
            terms = {grant.federation: grant for grant in self.all()}
            if federation not in terms:
                raise ConsentError(f"site {self._datasets.site!r} never granted {federation}; its grants: {', '.join(terms) or 'none'}")
            revoked = replace(terms[federation], revoked=terms[federation].revoked or _now())
            self._write_terms(revoked)
            self._check_files()
            self._change("revoke_read_access", federation)
        return revoked

    def _valid(self, federation: str, grant: Grant | None, readers: int) -> Grant:
        again = f"its owner can: primia-ray site grant BOX {federation}"
        if grant is None and readers:
            raise self._refusal(federation, f"stands in Syft's permission files, but not in {self._terms_path.name}", again)
        if grant is None:
            raise self._refusal(federation, "was never granted", again)
        if grant.state == "revoked":
            raise self._refusal(federation, f"was revoked at {grant.revoked}", again)
        if grant.state == "expired":
            raise self._refusal(federation, f"was granted until {grant.until}", again)
        if readers < len(self._datasets.names):
            raise self._refusal(federation, f"is missing from {PERMISSION_FILE_NAME} of a dataset: revoked there", again)
        return grant

    def _refusal(self, federation: str, why: str, mend: str) -> ConsentError:
        return NotGranted(f"site {self._datasets.site!r} does not take part: federation {federation} {why}; {mend}")

    def _check_name(self, federation: str) -> None:
        if identity_name(federation) == self._datasets.owner:
            raise ConsentError(f"{federation} is the owner of site {self._datasets.site!r}, to whom Syft allows all; name the federation")

    def _readers(self, federation: str) -> int:
        """In how many datasets Syft lets ``federation`` read the private half."""
        try:
            context = SyftPermContext(self._datasets.datasite)
            return sum(bool(context.open(f"{folder}/").has_read_access(federation)) for folder in self._private_folders())
        except Exception as error:  # whatever Syft's YAML and models raise
            raise ConsentError(
                f"{self._datasets.datasite}: Syft cannot read its permissions ({printable(error)}); make the box again"
            ) from None

    def _private_folders(self) -> list[Path]:
        site = self._datasets
        return [site.private_folder(name).relative_to(site.datasite) for name in site.names]

    def _check_files(self) -> None:
        expected = self._datasets.permission_files()
        found = set(self._datasets.folder.rglob(PERMISSION_FILE_NAME))
        for path in sorted(expected - found):
            raise ConsentError(f"{path}: missing, so that files higher up would decide; make the box again, or restore it from a backup")
        for path in sorted(found - expected):
            raise ConsentError(f"{path}: a permission file where none belongs, Syft would obey it; remove it and look who wrote it")
        for path in sorted(found):
            _check_text(path)
        for folder in self._private_folders():
            _check_readers(self._datasets.datasite / folder / PERMISSION_FILE_NAME)

    def _change(self, method: str, federation: str) -> None:
        """Have Syft change copies of the permission files, and put those in place: its own writes are not atomic."""
        datasite = self._datasets.datasite
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".grant.") as scratch:
            copy = Path(scratch, self._datasets.owner)
            for folder in self._private_folders():
                (copy / folder).mkdir(parents=True)
                shutil.copyfile(datasite / folder / PERMISSION_FILE_NAME, copy / folder / PERMISSION_FILE_NAME)
                getattr(SyftPermContext(copy).open(f"{folder}/"), method)(federation)
                write_private(datasite / folder / PERMISSION_FILE_NAME, (copy / folder / PERMISSION_FILE_NAME).read_text())

    def _write_terms(self, grant: Grant) -> None:
        terms = {**grant.terms(), "granted": grant.granted, "revoked": grant.revoked}
        write_json(self._terms_path, {**read_json(self._terms_path, missing={}), grant.federation: terms})


def _check_text(path: Path) -> None:
    try:
        check_yaml(path)
    except (OSError, Unusable) as error:
        raise ConsentError(f"{path}: cannot be read ({printable(error)}); restore it from a backup") from None


def _check_readers(path: Path) -> None:
    """Raise :class:`ConsentError` where a private half's permission file lets in more than readers by name."""
    try:
        rules = RuleSet.load(path)
    except Exception as error:  # whatever YAML and Syft's models raise
        raise ConsentError(f"{path}: cannot be read ({printable(error)}); restore it from a backup") from None
    mend = "edit it, or make the box again; nobody is let in until then"
    if rules.terminal or [rule.pattern for rule in rules.rules] != [_EVERYTHING]:
        raise ConsentError(f"{path}: holds other rules than one for all files of the dataset; {mend}")
    access = rules.rules[0].access
    if access.admin or access.write:
        raise ConsentError(f"{path}: lets {', '.join((*access.admin, *access.write))} write, where only readers belong; {mend}")
    for reader in access.read:
        try:
            identity_name(reader)
        except ConsentError:
            raise ConsentError(f"{path}: lets in {reader!r}, which names no single federation; {mend}") from None


def _check_terms(grant: Grant, site: str) -> None:
    """Raise :class:`ConsentError` where terms mean nothing."""
    if grant.until and grant.until < today():
        raise ConsentError(f"a grant until {grant.until} is over already; give a day that is to come")
    if grant.max_epsilon is not None and not 0.0 < grant.max_epsilon < math.inf:
        raise ConsentError(f"a cap on epsilon of {grant.max_epsilon} means nothing; give a number above 0")
    if grant.delta is not None and not 0.0 < grant.delta < 1.0:
        raise ConsentError(f"a cap at delta = {grant.delta} means nothing; give a number well below 1 over the site's patients")
    if grant.pinned < 0 or (grant.partners and grant.pinned > len(grant.partners)):
        raise ConsentError(f"sums with {grant.pinned} pinned sites cannot be; name so many, or ask for fewer")
    for name in grant.partners:
        check_name(name)
        if name == site:
            raise ConsentError(f"{name} is this site itself; name the others")


def _grant(path: Path, federation: str, terms: object) -> Grant:
    try:
        identity_name(federation)
        written: _Written = validated(_Written, terms)
    except (ConsentError, Unusable) as error:
        name = printable(federation, 200)
        raise ConsentError(f"{path}: the terms of {name} cannot be read ({printable(error)}); grant it again") from None
    until = None if written.until is None else date.fromisoformat(written.until)
    return Grant(federation, **{**written.model_dump(), "until": until, "partners": tuple(written.partners)})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
