"""Who a party is: one Ed25519 key that signs, and Syft's keys that open what is sealed for it.

Private keys are made where they are used, in the party's own process, and written with mode 0600. What others get
is a public bundle (a DID document); its fingerprint is short enough to be read out over the telephone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import syft_crypto_python as syc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from primia.errors import ProtocolError, RunError
from primia.files import atomic_text, private_folder
from primia.untrusted.files import read_file

_KEYS_LIMIT = 2**16
"""Bytes of the largest file of private keys."""

_GROUP = 4
_LENGTH_BYTES = 2


@dataclass(frozen=True)
class PublicIdentity:
    """A party's name and its public keys; ``document`` is a DID document as JSON text, picklable and printable."""

    name: str
    document: str

    @property
    def bundle(self) -> syc.SyftPublicKeyBundle:
        """Syft's bundle.

        Raises:
            ProtocolError: the document is no DID document, or its encryption keys are not signed by its identity key.
        """
        return _bundle(self.name, self.document)

    @property
    def key(self) -> bytes:
        """The Ed25519 public key, 32 bytes: what others pin."""
        return bytes(self.bundle.identity_key_bytes)

    @property
    def fingerprint(self) -> str:
        """Eight groups of four hexadecimal digits of the identity key's SHA-256, to be compared out of band."""
        digits = str(self.bundle.identity_fingerprint())[: 8 * _GROUP]
        return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise :class:`ProtocolError` unless ``signature`` is this party's on ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except InvalidSignature:
            raise ProtocolError(f"a signature is not that of {self.name!r}: forged, or made by other keys than the pinned ones") from None


@lru_cache(maxsize=4096)
def _bundle(name: str, document: str) -> syc.SyftPublicKeyBundle:
    try:
        bundle = syc.SyftPublicKeyBundle.from_did_document(json.loads(document))
        valid = bundle.verify_signatures()
    except Exception as error:  # the native module raises its own kinds
        raise ProtocolError(f"the public keys of {name!r} cannot be read: {error}") from None
    if valid is False:
        raise ProtocolError(f"the public keys of {name!r} are not signed by its identity key; somebody changed them")
    return bundle


class Identity:
    """A party's private keys. Not picklable: it stays in the process that made it."""

    def __init__(self, name: str, keys: syc.SyftPrivateKeys) -> None:
        self.name = name
        self._keys = keys
        self._signing = Ed25519PrivateKey.from_private_bytes(_unpadded(keys.to_jwks()["identity_key"]["d"]))
        bundle = keys.to_public_bundle()
        self.public = PublicIdentity(name, json.dumps(bundle.to_did_document(f"did:primia:{name}"), sort_keys=True))

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Fresh keys from the operating system's generator."""
        return cls(name, syc.SyftRecoveryKey.generate().derive_keys())

    @classmethod
    def load_or_create(cls, name: str, path: Path) -> Identity:
        """The keys in the file ``path``, which is written with mode 0600 if it is not there.

        Raises:
            ProtocolError: the file holds no keys, or others than its user may read it.
            RunError: it cannot be written.
        """
        with suppress(FileNotFoundError):
            return cls._load(name, path)
        identity = cls.generate(name)
        try:
            private_folder(path.parent)
        except OSError as error:
            raise RunError(f"cannot make {path.parent}: {error.strerror}") from error
        atomic_text(path, json.dumps(identity._keys.to_jwks()))
        return identity

    @classmethod
    def _load(cls, name: str, path: Path) -> Identity:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ProtocolError(
                f"{path}: private keys with mode {mode:04o}, others may read them; chmod 600, and make new ones if in doubt"
            )
        try:
            return cls(name, syc.SyftPrivateKeys.from_jwks(json.loads(read_file(path, _KEYS_LIMIT, follow=True))))
        except Exception as error:
            raise ProtocolError(f"{path}: holds no private keys ({error}); remove it to make new ones") from None

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self._signing.sign(message)

    def seal(self, recipient: PublicIdentity, context: Mapping[str, object], payload: bytes) -> bytes:
        """An envelope that ``recipient`` alone can open, and only where it expects just this ``context``."""
        recipients = [syc.EncryptionRecipient(recipient.name, recipient.bundle)]
        return bytes(syc.encrypt_message(self.name, self._keys, recipients, _header(context) + payload))

    def open(self, sender: PublicIdentity, context: Mapping[str, object], envelope: bytes) -> bytes:
        """The payload of an envelope from ``sender`` for this party in this context.

        Syft's envelopes bind neither sender's name nor purpose, and can be replayed: so the purpose (federation, round, step) is
        part of what is encrypted, and is compared here.

        Raises:
            ProtocolError: tampered with, from somebody else, for somebody else, or for another context (a replay).
        """
        try:
            parsed = syc.parse_envelope(envelope)
            named = parsed.prelude["sender"]["identity"]
            content = bytes(syc.decrypt_message(self.name, self._keys, sender.bundle, parsed))
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(f"a message for {self.name!r} that should come from {sender.name!r} cannot be opened: {error}") from None
        if any(_padding(envelope, parsed)):
            raise ProtocolError(f"a message from {sender.name!r} for {self.name!r} was changed on its way")
        if named != sender.name:
            raise ProtocolError(f"a message for {self.name!r} names {named!r} as its sender, not {sender.name!r}")
        header = _header(context)
        if content[: len(header)] != header:
            raise ProtocolError(f"a message from {sender.name!r} for {self.name!r} is not of this step ({_words(context)}): a replay")
        return content[len(header) :]


def _header(context: Mapping[str, object]) -> bytes:
    text = json.dumps(dict(context), sort_keys=True).encode()
    return len(text).to_bytes(4, "big") + text


def _padding(envelope: bytes, parsed: syc.ParsedEnvelope) -> bytes:
    """The zeros between prelude and signature's length: the only bytes of an envelope that Syft does not authenticate."""
    end = len(envelope) - len(parsed.ciphertext) - len(parsed.signature) - _LENGTH_BYTES
    prelude = bytes(parsed.prelude_bytes)
    return envelope[envelope.find(prelude) + len(prelude) : end]


def _words(context: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in context.items())


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
