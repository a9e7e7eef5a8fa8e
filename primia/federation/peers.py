"""Keys of other sites, pinned: the first key seen under a name is kept, and another one later is refused."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from primia.errors import ConsentError, ProtocolError
from primia.federation.box_files import locked, read_json, write_json
from primia.secagg.identity import PublicIdentity

_DID = "did:primia:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")


@dataclass(frozen=True)
class Peer:
    """A pinned site: its public keys, when they were pinned (UTC), and by whom, ``owner`` or ``first contact``."""

    document: str
    pinned: str
    by: str


class Peers:
    """The pinned keys of the box in ``folder``."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder = folder
        self._site = site
        self._path = folder / "peers.json"

    def all(self) -> dict[str, Peer]:
        """Every pinned site by name; :class:`ConsentError` if the file was damaged."""
        try:
            return {name: Peer(**fields) for name, fields in read_json(self._path, missing={}).items()}
        except TypeError:
            raise ConsentError(f"{self._path}: holds no pinned keys; restore it from a backup") from None

    def get(self, name: str) -> PublicIdentity | None:
        """The pinned identity of ``name``, if there is one."""
        peer = self.all().get(name)
        return PublicIdentity(name, peer.document) if peer else None

    def pin(self, peer: PublicIdentity, *, by_owner: bool = False, replace: bool = False) -> bool:
        """Pin ``peer``'s key under its name; True if that is new.

        Raises:
            ProtocolError: another key is pinned under this name and ``replace`` is not given, or the document is no set of keys.
            ConsentError: a name that no site or federation can have.
        """
        _check_name(peer.name)
        key = peer.key  # raises on keys that are none, before anything is written
        with locked(self._folder):
            known = self.get(peer.name)
            if known and known.key == key:
                return False
            if known and not replace:
                raise self._changed(known, peer)
            pinned = Peer(peer.document, datetime.now(UTC).isoformat(timespec="seconds"), "owner" if by_owner else "first contact")
            peers = {**self.all(), peer.name: pinned}
            write_json(self._path, {name: asdict(entry) for name, entry in peers.items()})
        return True

    def _changed(self, known: PublicIdentity, peer: PublicIdentity) -> ProtocolError:
        return ProtocolError(
            f"site {self._site!r} has pinned the key {known.fingerprint} for {peer.name!r}, which now shows {peer.fingerprint}: "
            "somebody else, or new keys; compare by telephone before: primia-ray site pin BOX FILE --replace"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConsentError(f"{name!r} names no site or federation: letters, digits, '.', '_', '-' and '@' only")


def read_public_key(path: Path) -> PublicIdentity:
    """The identity in a public-key file, as ``primia-ray site show --public-key`` writes it.

    Raises:
        ConsentError: no such file, or no public keys of a site.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        name = str(document["id"]).removeprefix(_DID)
        _check_name(name)
        peer = PublicIdentity(name, json.dumps(document, sort_keys=True))
        peer.key  # noqa: B018 - raises on keys that are none
    except OSError as error:
        raise ConsentError(f"{path}: cannot be read ({error.strerror}); give the file that `site show --public-key` writes") from None
    except (ValueError, KeyError, TypeError, ProtocolError, ConsentError) as error:
        raise ConsentError(f"{path}: no public keys of a site ({error}); ask for the file that `site show --public-key` writes") from None
    return peer
