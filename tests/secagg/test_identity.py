"""Identities: signatures and seals that fit one sender, one recipient, one context; keys that stay at home."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from primia.errors import ProtocolError
from primia.secagg.identity import Identity, PublicIdentity

CONTEXT = {"federation": "study@hospital.example", "round": 3, "sender": "a"}


@pytest.fixture(scope="module")
def pair() -> tuple[Identity, Identity]:
    return Identity.generate("a"), Identity.generate("b")


def test_a_signature_is_the_signers(pair: tuple[Identity, Identity]) -> None:
    a, b = pair
    signature = a.sign(b"text")
    a.public.verify(signature, b"text")
    for identity, said, text in (
        (a, signature, b"other"),
        (b, signature, b"text"),
        (a, signature[:-1] + bytes([signature[-1] ^ 1]), b"text"),
    ):
        with pytest.raises(ProtocolError, match=f"not that of '{identity.name}'"):
            identity.public.verify(said, text)


def test_what_is_sealed_opens_for_its_recipient_in_its_context_only(pair: tuple[Identity, Identity]) -> None:
    a, b = pair
    envelope = a.seal(b.public, CONTEXT, b"a share")
    assert b.open(a.public, CONTEXT, envelope) == b"a share"
    with pytest.raises(ProtocolError, match="replay"):
        b.open(a.public, CONTEXT | {"round": 4}, envelope)
    with pytest.raises(ProtocolError, match="replay"):
        b.open(a.public, CONTEXT | {"federation": "another@hospital.example"}, envelope)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        a.open(a.public, CONTEXT, envelope)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        b.open(b.public, CONTEXT, envelope)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        b.open(a.public, CONTEXT, b"no envelope")


@pytest.mark.parametrize("first", range(61))
def test_an_envelope_with_any_byte_changed_is_refused(pair: tuple[Identity, Identity], first: int) -> None:
    a, b = pair
    envelope = a.seal(b.public, CONTEXT, b"a share")
    for place in range(first, len(envelope), 61):
        changed = bytearray(envelope)
        changed[place] ^= 1
        with pytest.raises(ProtocolError):
            b.open(a.public, CONTEXT, bytes(changed))


def test_a_message_cut_short_or_grown_is_refused(pair: tuple[Identity, Identity]) -> None:
    a, b = pair
    envelope = a.seal(b.public, CONTEXT, b"a share")
    for changed in (envelope[:-1], envelope + b"\0", envelope[1:], b""):
        with pytest.raises(ProtocolError):
            b.open(a.public, CONTEXT, changed)


def test_a_sender_under_another_name_is_refused(pair: tuple[Identity, Identity]) -> None:
    """Syft takes the sender's name from the envelope; two names with one key would be one another's."""
    a, b = pair
    impostor = Identity("c", a._keys)
    with pytest.raises(ProtocolError, match="names 'c' as its sender, not 'a'"):
        b.open(a.public, CONTEXT, impostor.seal(b.public, CONTEXT, b"x"))


def test_keys_are_kept_private_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    first = Identity.load_or_create("a", path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create("a", path).public == first.public
    path.chmod(0o644)
    with pytest.raises(ProtocolError, match="mode 0644, others may read them"):
        Identity.load_or_create("a", path)
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(ProtocolError, match="holds no private keys"):
        Identity.load_or_create("a", path)


def test_private_keys_do_not_travel_and_public_ones_do(pair: tuple[Identity, Identity]) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(pair[0])
    public = pair[0].public
    assert public.key  # the bundle is read
    assert pickle.loads(pickle.dumps(public)) == public


def test_a_fingerprint_is_short_and_the_keys_own(pair: tuple[Identity, Identity]) -> None:
    a, b = pair
    assert len(a.public.fingerprint.split()) == 8 and a.public.fingerprint != b.public.fingerprint


def test_a_document_put_together_from_two_is_refused(pair: tuple[Identity, Identity]) -> None:
    a, b = (json.loads(identity.public.document) for identity in pair)
    mixed: Mapping[str, object] = a | {"verificationMethod": b["verificationMethod"]}
    with pytest.raises(ProtocolError, match="public keys of 'a' cannot be read"):
        PublicIdentity("a", json.dumps(mixed)).key  # noqa: B018 - it raises
    with pytest.raises(ProtocolError, match="cannot be read"):
        PublicIdentity("a", "{}").key  # noqa: B018


def test_a_file_of_any_size_is_no_keys(tmp_path: Path) -> None:
    """The attack: a file of zeros without a block on the disk, which takes all memory when it is read whole."""
    path = tmp_path / "keys.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    path.chmod(0o600)
    with pytest.raises(ProtocolError, match=r"holds no private keys .*1099511627776 bytes, more than 65536"):
        Identity.load_or_create("a", path)
