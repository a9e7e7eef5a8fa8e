from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from primia.consent import mock
from primia.consent.box import SiteBox, fill_box
from primia.data.shard import Row, Shard, ShardHeader, write_shard
from primia.errors import ConsentError, PrivacyError, ProtocolError
from primia.secagg.identity import Identity

STUDY = "study@hospital.example"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of site north, made under a lax umask."""
    root = tmp_path_factory.mktemp("ready")
    shards = []
    for split, images in (("train", 5), ("test", 3)):
        (root / split).mkdir()
        header = ShardHeader("north", split, ("cat", "dog"), 1, 8, False, "f")
        rows = [Row(np.full((1, 8, 8), 255, np.uint8), number % 2, f"secret-{number}", f"secret-{number}.png") for number in range(images)]
        write_shard(root / split / "north.arrow", header, rows)
        shards.append(Shard.open(root / split / "north.arrow"))
    (root / "box").mkdir()
    before = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mock, "LEAST_IMAGES", 8)
            fill_box(root / "box", owner="data@north.example", shards=shards)
    finally:
        os.umask(before)
    return root / "box"


@pytest.fixture
def path(ready: Path, tmp_path: Path) -> Path:
    shutil.copytree(ready, tmp_path / "box")
    return tmp_path / "box"


def test_a_box_is_closed_to_others_whatever_the_umask(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o700
    for inside in path.rglob("*"):
        assert inside.stat().st_mode & 0o777 == (0o700 if inside.is_dir() else 0o600), inside
    assert not list(path.rglob(".*"))


def test_a_box_tells_its_name_keys_and_shards(path: Path) -> None:
    box = SiteBox.open(path)
    assert (box.name, box.owner, box.splits, box.synthetic) == ("north", "data@north.example", ("train", "test"), False)
    assert box.identity().public == box.public
    assert box.ledger.parent == path and not box.ledger.exists()
    for split, images in (("train", 5), ("test", 3)):
        private, drawn = (Shard.open(box.shard(split, dry_run=dry), box=path) for dry in (False, True))
        assert (len(private), len(drawn)) == (images, 8)
        assert (private.images == 255).all() and not (drawn.images == 255).all()
        assert (drawn.classes, drawn.channels, drawn.image_size, drawn.synthetic) == (("cat", "dog"), 1, 8, True)
        assert box.dataset_id(split) != private.header.fingerprint
    with pytest.raises(ConsentError, match="has no dataset 'validation'; it holds train, test"):
        box.shard("validation", dry_run=True)
    with pytest.raises(ConsentError, match="has no dataset"):
        box.shard("../train", dry_run=True)


def test_nothing_of_a_patient_is_in_what_is_public(path: Path) -> None:
    public = [file for file in (path / "syft").rglob("*") if file.is_file() and "public" in file.parts]
    assert len(public) == 6
    for file in (*public, path / "box.json", path / "identity" / "public.json"):
        content = file.read_bytes()
        assert b"secret" not in content and b"\xff" * 64 not in content


def test_a_box_moves_with_all_it_holds(path: Path) -> None:
    SiteBox.open(path).grant(STUDY)
    path.rename(path.parent / "moved")
    box = SiteBox.open(path.parent / "moved")
    box.check_grant(STUDY)
    assert len(Shard.open(box.shard("train", dry_run=False), box=box.path)) == 5 and box.dataset_id("train")


def test_public_keys_are_read_without_private_ones(path: Path) -> None:
    (path / "identity" / "private.json").unlink()
    box = SiteBox.open(path)
    assert len(box.public.key) == 32
    with pytest.raises(ConsentError, match=r"private\.json: missing; restore it from a backup"):
        box.identity()
    assert not (path / "identity" / "private.json").exists()


def test_a_box_goes_through_pickle_without_its_keys(path: Path) -> None:
    box = pickle.loads(pickle.dumps(SiteBox.open(path)))
    assert box.name == "north" and box.public == SiteBox.open(path).public


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_box_that_others_may_enter_is_refused(path: Path, mode: int) -> None:
    box = SiteBox.open(path)
    box.grant(STUDY)
    path.chmod(mode)
    for attempt in (lambda: SiteBox.open(path), lambda: box.check_grant(STUDY), lambda: box.grant(STUDY), box.identity):
        with pytest.raises(ConsentError, match=f"a site box with mode {mode:04o}, others may read it; chmod 700 it"):
            attempt()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_private_keys_that_others_may_read_are_refused(path: Path, mode: int) -> None:
    box = SiteBox.open(path)
    box.grant(STUDY)
    (path / "identity" / "private.json").chmod(mode)
    for attempt in (lambda: SiteBox.open(path), lambda: box.check_grant(STUDY), lambda: box.grant(STUDY), box.identity):
        with pytest.raises(ConsentError, match=rf"private\.json: private keys with mode {mode:04o}, others may read it"):
            attempt()


@pytest.mark.parametrize(
    "where", ["identity/private.json", "syft/{owner}/private/syft_datasets/v1/train/north.arrow", "syft/{owner}/public", "new"]
)
def test_symbolic_links_in_a_box_are_refused(path: Path, where: str) -> None:
    box = SiteBox.open(path)
    box.grant(STUDY)
    link = path / where.format(owner=box.owner)
    target = path.parent / "elsewhere"
    if link.exists():
        link.rename(target)
    link.symlink_to(target)
    for attempt in (lambda: SiteBox.open(path), lambda: box.check_grant(STUDY), lambda: box.revoke(STUDY), box.identity):
        with pytest.raises(ConsentError, match="a symbolic link, which a site box may not hold"):
            attempt()


def test_a_link_to_a_box_is_no_box(path: Path) -> None:
    (path.parent / "link").symlink_to(path)
    with pytest.raises(ConsentError, match="link: no site box"):
        SiteBox.open(path.parent / "link")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "a box of format primia-site-box 2, this version reads primia-site-box 1"),
        ({"format": "other"}, "a box of format"),
        ({"site": "../north"}, "cannot name a site box"),
        ({"owner": "../../data@north.example"}, "names no single federation"),
        ({"datasets": ["../../train"]}, "is no dataset of a site box"),
        ({"datasets": None}, "not as it was written"),
        ({"owner": None}, "not as it was written"),
    ],
)
def test_a_card_that_leads_elsewhere_is_refused(path: Path, change: dict[str, object], words: str) -> None:
    card = json.loads((path / "box.json").read_text())
    (path / "box.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(ConsentError, match=words):
        SiteBox.open(path)


def test_what_is_no_box_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConsentError, match=f"{path}: no site box; make one with primia-ray site init"):
            SiteBox.open(path)


def test_keys_of_another_site_are_noticed(path: Path) -> None:
    (path / "identity" / "public.json").write_text(Identity.generate("north").public.document)
    with pytest.raises(ConsentError, match="private and public keys do not belong together"):
        SiteBox.open(path).identity()


def test_a_cap_is_only_told_with_its_grant(path: Path) -> None:
    box = SiteBox.open(path)
    with pytest.raises(ConsentError, match="was never granted"):
        box.max_epsilon(STUDY)
    box.grant(STUDY)
    assert box.max_epsilon(STUDY) is None
    SiteBox.open(path).grant(STUDY, max_epsilon=4.0)
    assert box.max_epsilon(STUDY) == 4.0
    SiteBox.open(path).revoke(STUDY)
    with pytest.raises(ConsentError, match="was revoked"):
        box.max_epsilon(STUDY)


def test_a_grant_says_what_protection_it_asks_for(path: Path) -> None:
    box = SiteBox.open(path)
    assert box.grant(STUDY).require == "secure"
    box.grant(STUDY, require="sealed")
    assert box.check_grant(STUDY).require == "sealed"
    assert [entry.event["require"] for entry in box.audit_log()[1:]] == ["secure", "sealed"]


def test_a_pin_of_the_owners_is_logged_and_ends_first_contacts(path: Path) -> None:
    box, south = SiteBox.open(path), Identity.generate("south").public
    box.pin(south)
    assert box.pin(south, by_owner=True)
    assert [entry.event["by"] for entry in box.audit_log()[1:]] == ["first contact", "owner"]
    with pytest.raises(ProtocolError, match="does not know 'ghost'"):
        box.pin(Identity.generate("ghost").public)
    assert len(box.audit_log()) == 3


def test_pins(path: Path) -> None:
    box, south, impostor = SiteBox.open(path), Identity.generate("south").public, Identity.generate("south").public
    assert box.pinned("south") is None
    box.pin(south)
    assert box.pinned("south") == south.key
    with pytest.raises(ProtocolError, match=impostor.fingerprint):
        SiteBox.open(path).pin(impostor)


def test_what_the_owner_and_the_worker_do_is_logged(path: Path) -> None:
    box, south = SiteBox.open(path), Identity.generate("south").public
    box.grant(STUDY, max_epsilon=4.0)
    box.pin(south)
    box.pin(south)
    box.audit({"purpose": "train", "federation": STUDY, "run": "first", "round": 1, "images": 5, "epsilon": 0.5, "outcome": "delivered"})
    box.revoke(STUDY)
    events = [dict(entry.event) for entry in box.audit_log()]
    assert [event["purpose"] for event in events] == ["init", "grant", "pin", "train", "revoke"]
    assert events[0] == {"purpose": "init", "site": "north", "images": {"train": 5, "test": 3}}
    assert events[1] == {
        "purpose": "grant",
        "federation": STUDY,
        "max_epsilon": 4.0,
        "delta": None,
        "unit": "patient",
        "until": None,
        "require": "secure",
        "partners": [],
        "pinned": 0,
        "first_contact": False,
    }
    assert events[2] == {"purpose": "pin", "site": "south", "fingerprint": south.fingerprint, "by": "first contact"}
    assert box.audit_head().entries == 5
    log = path / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"epsilon": 0.5', b'"epsilon": 0.1'))
    with pytest.raises(ConsentError, match="line 4 is not what was written"):
        box.audit_log()


def test_nothing_is_granted_without_a_whole_log_but_all_can_be_revoked(path: Path) -> None:
    box = SiteBox.open(path)
    box.grant(STUDY)
    (path / "audit.jsonl").write_text("")
    with pytest.raises(ConsentError, match="cut after line 0, 2 were written"):
        box.grant("second@hospital.example")
    assert [grant.federation for grant in box.grants()] == [STUDY]
    with pytest.raises(ConsentError, match="cut after line 0"):
        box.revoke(STUDY)
    with pytest.raises(ConsentError, match="was revoked"):
        box.check_grant(STUDY)
    for name in ("audit.jsonl", "audit.head"):
        (path / name).rename(path / f"old-{name}")
    box.grant(STUDY)
    assert [entry.event["purpose"] for entry in box.audit_log()] == ["grant"]


def test_a_cap_at_a_delta_that_gives_units_away_is_no_grant(path: Path) -> None:
    """Five images of as many patients, or fewer."""
    box = SiteBox.open(path)
    units = box.units("image")
    for delta in (1 / units, 0.9):
        with pytest.raises(PrivacyError, match=rf"\(--delta\), with {units} training images, allows to publish one of them"):
            box.grant(STUDY, max_epsilon=1.0, delta=delta, unit="image")
    assert box.grants() == ()
    limit = SiteBox.open(path).grant(STUDY, max_epsilon=1.0).limit(box.units("patient"))
    assert limit is not None and limit.delta == 1e-5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("datasets", value) for value in ([], "train", [[]], {"train": 1}, ["train"] * 9)],
        *[("site", value) for value in (None, 5, "", "x" * 5000)],
        *[("owner", value) for value in (5, [])],
        *[("version", value) for value in (True, [1], "x" * 5000)],
    ],
)
def test_a_card_of_odd_types_is_one_clear_error(path: Path, key: str, value: object) -> None:
    card = json.loads((path / "box.json").read_text())
    (path / "box.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(ConsentError, match=r"box\.json: not as it was written|a box of format") as caught:
        SiteBox.open(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
