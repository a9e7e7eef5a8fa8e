from __future__ import annotations

import json
from pathlib import Path

import pytest

from primia.consent.peers import Peers, read_public_key
from primia.errors import ConsentError, ProtocolError
from primia.secagg.identity import Identity, PublicIdentity


@pytest.fixture(scope="module")
def south() -> PublicIdentity:
    return Identity.generate("south").public


@pytest.fixture(scope="module")
def impostor() -> PublicIdentity:
    return Identity.generate("south").public


def test_the_first_key_is_kept_for_other_processes_too(tmp_path: Path, south: PublicIdentity) -> None:
    assert Peers(tmp_path, "north").get("south") is None
    assert Peers(tmp_path, "north").pin(south) is True
    assert Peers(tmp_path, "north").pin(south) is False
    assert Peers(tmp_path, "north").get("south") == south
    assert Peers(tmp_path, "north").all()["south"].by == "first contact"
    assert (tmp_path / "peers.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("by_owner", [False, True])
def test_another_key_is_refused_with_both_fingerprints(
    tmp_path: Path, south: PublicIdentity, impostor: PublicIdentity, by_owner: bool
) -> None:
    peers = Peers(tmp_path, "north")
    peers.pin(south, by_owner=True)
    with pytest.raises(ProtocolError) as error:
        peers.pin(impostor, by_owner=by_owner)
    assert south.fingerprint in str(error.value) and impostor.fingerprint in str(error.value) and "\n" not in str(error.value)
    assert peers.get("south") == south


def test_the_owner_can_replace_a_key(tmp_path: Path, south: PublicIdentity, impostor: PublicIdentity) -> None:
    peers = Peers(tmp_path, "north")
    peers.pin(south)
    assert peers.pin(impostor, by_owner=True, replace=True) is True
    assert peers.get("south") == impostor and peers.all()["south"].by == "owner"


def test_keys_that_are_none_are_not_pinned(tmp_path: Path, south: PublicIdentity) -> None:
    swapped = json.loads(south.document)
    swapped["keyAgreement"] = json.loads(Identity.generate("south").public.document)["keyAgreement"]
    for document in ("{}", "no json", json.dumps(swapped)):
        with pytest.raises(ProtocolError, match="the public keys of 'south'"):
            Peers(tmp_path, "north").pin(PublicIdentity("south", document))
    with pytest.raises(ConsentError, match="names no site or federation"):
        Peers(tmp_path, "north").pin(PublicIdentity("so\nuth", south.document))
    assert Peers(tmp_path, "north").all() == {}


def test_where_the_owner_pinned_anybody_nobody_else_is_believed(tmp_path: Path, south: PublicIdentity) -> None:
    peers, ghost = Peers(tmp_path, "north"), Identity.generate("ghost").public
    peers.pin(south, by_owner=True)
    with pytest.raises(ProtocolError) as error:
        peers.pin(ghost)
    assert "site 'north' does not know 'ghost'" in str(error.value) and ghost.fingerprint in str(error.value)
    assert "primia-ray site pin BOX FILE" in str(error.value) and "\n" not in str(error.value)
    assert set(peers.all()) == {"south"} and peers.pin(south) is False
    assert peers.pin(ghost, by_owner=True) is True and peers.pin(ghost) is False


def test_the_owners_word_for_a_key_that_was_believed_ends_first_contacts(tmp_path: Path, south: PublicIdentity) -> None:
    peers, west = Peers(tmp_path, "north"), Identity.generate("west").public
    assert peers.pin(south) and peers.pin(west)
    assert peers.pin(south, by_owner=True) is True and peers.all()["south"].by == "owner"
    assert peers.pin(south, by_owner=True) is False and peers.pin(south) is False and peers.all()["south"].by == "owner"
    assert peers.pin(west) is False, "what was believed before stays"
    with pytest.raises(ProtocolError, match="does not know 'ghost'"):
        peers.pin(Identity.generate("ghost").public)


@pytest.mark.parametrize("name", ["Klinik Süd", "St. Anna", "(1)", "Ηράκλειο", "a..b"])
def test_names_that_the_data_layer_allows_can_be_pinned_and_read_back(tmp_path: Path, name: str) -> None:
    peer = Identity.generate(name).public
    assert Peers(tmp_path, "north").pin(peer) and Peers(tmp_path, "north").get(name) == peer
    (tmp_path / "peer.json").write_text(peer.document)
    assert read_public_key(tmp_path / "peer.json") == peer


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../x", "a\\b", "a\x00b", "a\tb", "a\u202eb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, south: PublicIdentity) -> None:
    with pytest.raises(ConsentError, match="names no site or federation") as error:
        Peers(tmp_path, "north").pin(PublicIdentity(name, south.document))
    assert str(error.value).isprintable()


def test_a_federation_can_be_pinned_as_well(tmp_path: Path) -> None:
    study = Identity.generate("study@hospital.example").public
    assert Peers(tmp_path, "north").pin(study) and Peers(tmp_path, "north").get(study.name) == study


def test_a_public_key_file_is_read_back(tmp_path: Path, south: PublicIdentity) -> None:
    path = tmp_path / "south.json"
    path.write_text(json.dumps(json.loads(south.document), indent=2))
    assert read_public_key(path) == south


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "did:primia:south"}', '{"id": "did:primia:../x"}'])
def test_what_is_no_public_key_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "south.json"
    path.write_text(content)
    with pytest.raises(ConsentError) as error:
        read_public_key(path)
    assert str(error.value).startswith(f"{path}: no public keys of a site") and "\n" not in str(error.value)


def test_a_public_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match=r"nowhere\.json: cannot be read \(No such file or directory\)"):
        read_public_key(tmp_path / "nowhere.json")


def test_damaged_pins_are_named(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text('{"south": {"document": ""}}')
    with pytest.raises(ConsentError, match=r"peers\.json: holds no pinned keys"):
        Peers(tmp_path, "north").all()


@pytest.mark.parametrize(
    "change",
    [
        [],
        "x",
        {"document": [1]},
        {"document": 5},
        {"document": {}},
        {"document": "no json"},
        {"document": "[" * 100_000},
        {"document": "{" + " " * 200_000 + "}"},
        {"pinned": 5},
        {"pinned": "[/x]"},
        {"pinned": "2026-01-02\x1b03:04:05+00:00"},
        {"pinned": "2026-13-02T03:04:05+00:00"},
        {"by": []},
        {"by": "somebody"},
        {"more": 1},
    ],
)
def test_pins_of_odd_types_are_one_clear_error(tmp_path: Path, south: PublicIdentity, change: object) -> None:
    peers = Peers(tmp_path, "north")
    peers.pin(south)
    written = json.loads((tmp_path / "peers.json").read_text())
    changed = {**written["south"], **change} if isinstance(change, dict) else change
    (tmp_path / "peers.json").write_text(json.dumps({"south": changed}))
    for read in (peers.all, peers.by_owner, lambda: peers.get("south"), lambda: peers.pin(south)):
        with pytest.raises(ConsentError, match=r"peers\.json: holds no pinned keys") as caught:
            read()
        assert str(caught.value).isprintable()


def test_a_pinned_name_that_leads_elsewhere_is_refused(tmp_path: Path, south: PublicIdentity) -> None:
    Peers(tmp_path, "north").pin(south)
    path = tmp_path / "peers.json"
    path.write_text(path.read_text().replace('"south": {', '"../south": {'))
    with pytest.raises(ConsentError, match=r"peers\.json: holds no pinned keys .*names no site"):
        Peers(tmp_path, "north").all()
