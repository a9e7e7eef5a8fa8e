"""Keys of other sites, pinned: the first key seen under a name is kept, and another one later is refused.

Where the owner has pinned anybody, nobody is believed at first contact any more: sites that nobody runs, slipped in to make a sum
over few real ones, are not pinned.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from primia.consent.files import locked, read_json, write_json
from primia.errors import ConsentError, ProtocolError
from primia.secagg.identity import PublicIdentity
from primia.untrusted.documents import parse_object, validated
from primia.untrusted.files import Unusable, read_file

_DID = "did:primia:"
_OWNER = "owner"
_FIRST_CONTACT = "first contact"
_DOCUMENT_LIMIT = 100_000
"""Characters of the longest public keys that are read."""


@dataclass(frozen=True)
class Peer:
    """A pinned site: its public keys, when they were pinned (UTC), and by whom, ``owner`` or ``first contact``."""

    document: str
    pinned: str
    by: str


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,20}([+-][0-9:]{5,8})?$"), AfterValidator(_time)]
"""A time as the files of a box have it: ``fromisoformat`` alone would take any sign between day and hour."""


def _keys(document: str) -> str:
    parse_object(document)
    return document


class _Written(BaseModel):
    """A pinned site as it stands in the file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    document: Annotated[str, Field(max_length=_DOCUMENT_LIMIT), AfterValidator(_keys)]
    pinned: Time
    by: Literal["owner", "first contact"]


_WRITTEN = TypeAdapter(dict[str, _Written])


class Peers:
    """The pinned keys of the box in ``folder``."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder = folder
        self._site = site
        self._path = folder / "peers.json"

    def all(self) -> dict[str, Peer]:
        """Every pinned site by name; :class:`ConsentError` if the file was damaged."""
        try:
            written: dict[str, _Written] = validated(_WRITTEN, read_json(self._path, missing={}))
            for name in written:
                check_name(name)
        except (Unusable, ConsentError) as error:
            raise ConsentError(f"{self._path}: holds no pinned keys ({error}); restore it from a backup") from None
        return {name: Peer(entry.document, entry.pinned, entry.by) for name, entry in written.items()}

    def by_owner(self) -> frozenset[str]:
        """Names whose keys the owner has pinned, rather than believed at first contact."""
        return frozenset(name for name, peer in self.all().items() if peer.by == _OWNER)

    def get(self, name: str) -> PublicIdentity | None:
        """The pinned identity of ``name``, if there is one."""
        peer = self.all().get(name)
        return PublicIdentity(name, peer.document) if peer else None

    def pin(self, peer: PublicIdentity, *, by_owner: bool = False, replace: bool = False) -> bool:
        """Pin ``peer``'s key under its name; True if that is new, or was believed so far and now is the owner's word.

        Raises:
            ProtocolError: another key is pinned under this name and ``replace`` is not given; the owner has pinned others, but not this
                one; or the document is no set of keys.
            ConsentError: a name that no site or federation can have.
        """
        check_name(peer.name)
        key = peer.key  # raises on keys that are none, before anything is written
        with locked(self._folder):
            peers = self.all()
            known = self.get(peer.name)
            if known and known.key == key and (peers[peer.name].by == _OWNER or not by_owner):
                return False
            if known and known.key != key and not replace:
                raise self._changed(known, peer)
            if not known and not by_owner and any(entry.by == _OWNER for entry in peers.values()):
                raise self._unknown(peer)
            pinned = Peer(peer.document, datetime.now(UTC).isoformat(timespec="seconds"), _OWNER if by_owner else _FIRST_CONTACT)
            write_json(self._path, {name: asdict(entry) for name, entry in {**peers, peer.name: pinned}.items()})
        return True

    def _unknown(self, peer: PublicIdentity) -> ProtocolError:
        return ProtocolError(
            f"site {self._site!r} does not know {peer.name!r} (fingerprint {peer.fingerprint}), and its owner has pinned whom to believe: "
            "a site that nobody runs, or one more to pin: primia-ray site pin BOX FILE"
        )

    def _changed(self, known: PublicIdentity, peer: PublicIdentity) -> ProtocolError:
        return ProtocolError(
            f"site {self._site!r} has pinned the key {known.fingerprint} for {peer.name!r}, which now shows {peer.fingerprint}: "
            "somebody else, or new keys; compare by telephone before: primia-ray site pin BOX FILE --replace"
        )


def check_name(name: str) -> None:
    """Raise :class:`ConsentError` for what no site or federation can be called."""
    if not name or not name.isprintable() or name.startswith(".") or "/" in name or "\\" in name:
        raise ConsentError(f"{name!r} names no site or federation: no slashes, no control characters, no dot at its beginning")


def read_public_key(path: Path) -> PublicIdentity:
    """The identity in a public-key file, as ``primia-ray site show --public-key`` writes it.

    Raises:
        ConsentError: no such file, or no public keys of a site.
    """
    try:
        document = parse_object(read_file(path, follow=True))
        name = str(document["id"]).removeprefix(_DID)
        check_name(name)
        peer = PublicIdentity(name, json.dumps(document, sort_keys=True))
        peer.key  # noqa: B018 - raises on keys that are none
    except OSError as error:
        raise ConsentError(f"{path}: cannot be read ({error.strerror}); give the file that `site show --public-key` writes") from None
    except (ValueError, KeyError, TypeError, ProtocolError, ConsentError) as error:
        raise ConsentError(f"{path}: no public keys of a site ({error}); ask for the file that `site show --public-key` writes") from None
    return peer
