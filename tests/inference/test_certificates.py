from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from primia.errors import ProtocolError
from primia.inference.certificates import common_name, make_certificates, party_name, role_of
from primia.mpc.messages import Role

NAMES = ("ca", "model-owner", "data-owner", "dealer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "new"
    make_certificates(folder)
    return folder


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def test_the_folder_holds_one_pair_a_party_and_the_ca(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{name}.{suffix}" for name in NAMES for suffix in ("pem", "key")}


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_private_and_fit_their_certificates(folder: Path, name: str) -> None:
    path = folder / f"{name}.key"
    assert path.stat().st_mode & 0o777 == 0o600
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == certificate(folder, name).public_key()


@pytest.mark.parametrize("role", Role)
def test_a_party_has_a_certificate_of_its_name_for_a_year(folder: Path, role: Role) -> None:
    name = party_name(role)
    found, now = certificate(folder, name), datetime.now(UTC)
    found.verify_directly_issued_by(certificate(folder, "ca"))
    assert common_name(found) == name and role_of(folder / f"{name}.pem") is role
    assert found.not_valid_before_utc < now - timedelta(minutes=30)
    assert timedelta(days=364) < found.not_valid_after_utc - now <= timedelta(days=365)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dealer.key").write_text("precious")
    with pytest.raises(ProtocolError, match=r"already holds dealer.key; choose another folder"):
        make_certificates(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("dealer.key", "precious")]


def test_an_unusable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProtocolError, match="cannot write certificates into"):
        make_certificates(tmp_path / "file")


def test_the_ca_is_no_party(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="which is no party; it must be of one of model-owner, data-owner, dealer"):
        role_of(folder / "ca.pem")
    with pytest.raises(ProtocolError, match="No such file"):
        role_of(tmp_path / "none.pem")
    with pytest.raises(ProtocolError, match="cannot read the certificate") as error:
        role_of(folder / "ca.key")
    assert "\n" not in str(error.value)
