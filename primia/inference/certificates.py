"""Certificates by which the three parties know each other: a certificate authority made for them, and one certificate for each role."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from primia.data.closed import refuse_box
from primia.errors import ProtocolError
from primia.files import new_file, private_folder
from primia.mpc.messages import Role

VALID_DAYS = 365
_CLOCK_SKEW = timedelta(hours=1)  # the parties' clocks differ, and the certificates should work at once
_AUTHORITY = "primia parties"


def make_certificates(folder: Path) -> None:
    """Write ``ca.pem`` and ``ca.key``, and ``NAME.pem`` and ``NAME.key`` for each party, into ``folder``.

    EC P-256, valid for a year; keys are unencrypted and readable by their owner alone (mode 0600). Give each party ``ca.pem`` and its
    own two files, and nobody ``ca.key``: whoever has it can pose as any party.

    Raises:
        ProtocolError: one of the files is there already (none is changed then), or the folder cannot be written.
        ConsentError: the folder would lie in a site box.
    """
    refuse_box(folder)
    files = _all_files()
    if there := [name for name in files if (folder / name).exists()]:
        raise ProtocolError(f"{folder} already holds {', '.join(there)}; choose another folder, or remove what it holds")
    try:
        private_folder(folder)
        for name, content in files.items():
            _write_new(folder / name, content)
    except OSError as error:
        raise ProtocolError(f"cannot write certificates into {folder}: {error.strerror or error}; choose another folder") from error


def party_name(role: Role) -> str:
    """The common name in the certificate of ``role``, which is also the name of its files."""
    return role.label.replace(" ", "-")


def common_name(certificate: x509.Certificate) -> str | None:
    """The subject's common name; None unless there is just one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None


def role_of(certificate: Path) -> Role:
    """The role for which the certificate at this path was made.

    Raises:
        ProtocolError: it cannot be read, or is of no party.
    """
    try:
        name = common_name(x509.load_pem_x509_certificate(certificate.read_bytes()))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"cannot read the certificate {certificate}: {_one_line(error)}; make the certificates anew") from error
    for role in Role:
        if party_name(role) == name:
            return role
    raise ProtocolError(f"the certificate {certificate} is of {name!r}, which is no party; it must be of one of {_names()}")


def _all_files() -> dict[str, bytes]:
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority_certificate(authority_key)
    files = {"ca.pem": _pem(authority), "ca.key": _key_pem(authority_key)}
    for role in Role:
        key = ec.generate_private_key(ec.SECP256R1())
        files[f"{party_name(role)}.pem"] = _pem(_party_certificate(role, key, authority, authority_key))
        files[f"{party_name(role)}.key"] = _key_pem(key)
    return files


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    builder = _builder(_AUTHORITY, _AUTHORITY, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _party_certificate(
    role: Role, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    either_side = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(party_name(role), _AUTHORITY, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(either_side), critical=False)
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return builder.add_extension(issuer, critical=False).sign(authority_key, hashes.SHA256())


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_x509_name(subject))
        .issuer_name(_x509_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _x509_name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write_new(path: Path, content: bytes) -> None:
    with new_file(path) as file:
        file.write(content)


def _names() -> str:
    return ", ".join(party_name(role) for role in Role)


def _one_line(error: OSError | ValueError) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error).split("\n")[0]
