from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from primia.consent import mock
from primia.consent.box import SiteBox
from primia.consent.boxes import create_boxes, default_owner, federated_data, find_boxes
from primia.data.shard import Row, Shard, ShardHeader, write_shard
from primia.errors import ConsentError, DataError


def pack(root: Path, *sites: str, splits: tuple[str, ...] = ("train", "test"), synthetic: bool = False, **header: object) -> Path:
    """A folder as ``primia-ray data pack`` writes it."""
    for split in splits:
        (root / split).mkdir(parents=True, exist_ok=True)
        for site in sites:
            fields = {"classes": ("cat", "dog"), "channels": 1, "image_size": 8, **header}
            shape = (fields["channels"], fields["image_size"], fields["image_size"])
            rows = [Row(np.zeros(shape, np.uint8), number % 2, f"p{number}", f"{number}.png") for number in range(4)]
            write_shard(root / split / f"{site}.arrow", ShardHeader(site, split, synthetic=synthetic, fingerprint="f", **fields), rows)
    return root


@pytest.fixture(autouse=True)
def _few_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mock, "LEAST_IMAGES", 8)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "LEAST_IMAGES", 8)
        create_boxes(root / "boxes", pack(root / "packed", "north", "south"))
    return root / "boxes"


@pytest.fixture
def boxes(ready: Path, tmp_path: Path) -> Path:
    shutil.copytree(ready, tmp_path / "boxes")
    return tmp_path / "boxes"


def test_of_several_sites_a_folder_of_boxes_is_made(boxes: Path) -> None:
    found = find_boxes(boxes)
    assert [(box.name, box.path.name, box.owner) for box in found] == [
        ("north", "north", "owner@north.example"),
        ("south", "south", "owner@south.example"),
    ]
    assert boxes.stat().st_mode & 0o777 == 0o700
    assert found[0].public.key != found[1].public.key


def test_one_site_of_several_makes_one_box(tmp_path: Path) -> None:
    data = pack(tmp_path / "packed", "north", "south")
    (box,) = create_boxes(tmp_path / "box", data, site="south", owner="data@south.example")
    assert (box.name, box.owner, box.path) == ("south", "data@south.example", tmp_path / "box")
    assert [box.name for box in find_boxes(tmp_path / "box")] == ["south"]


@pytest.mark.parametrize(("site", "owner"), [("north", "owner@north.example"), ("Clinic_A.1", "owner@clinic-a.1.example")])
def test_every_site_has_an_owner_that_syft_can_name(site: str, owner: str) -> None:
    assert default_owner(site) == owner


def test_nothing_is_left_of_a_box_that_cannot_be_made(tmp_path: Path) -> None:
    data = pack(tmp_path / "packed", "north", "a site")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    for attempt, words in (
        (lambda: create_boxes(tmp_path / "box", data), "cannot name a site box"),
        (lambda: create_boxes(tmp_path / "box", data, site="west"), "has no site 'west'; sites: a site, north"),
        (lambda: create_boxes(tmp_path / "box", data, site="north", owner="*"), "names no single federation"),
    ):
        with pytest.raises(ConsentError, match=words):
            attempt()
    for attempt, words in (
        (lambda: create_boxes(tmp_path / "full", data, site="north"), "exists and is not empty"),
        (lambda: create_boxes(tmp_path / "box", tmp_path / "full"), "no packed shards"),
    ):
        with pytest.raises(DataError, match=words):
            attempt()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "packed"]


def test_a_shard_that_is_a_link_goes_into_no_box(tmp_path: Path) -> None:
    data = pack(tmp_path / "packed", "north", splits=("train",))
    (data / "train" / "north.arrow").rename(tmp_path / "elsewhere.arrow")
    (data / "train" / "north.arrow").symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(ConsentError, match=r"not one file north\.arrow"):
        create_boxes(tmp_path / "box", data)
    assert not (tmp_path / "box").exists()


def test_a_federation_is_described_by_its_boxes(boxes: Path) -> None:
    real, dry = federated_data(boxes, dry_run=False), federated_data(boxes, dry_run=True)
    assert [site.name for site in real.sites] == ["north", "south"]
    assert (real.classes, real.channels, real.image_size, real.synthetic) == (("cat", "dog"), 1, 8, False)
    assert dry.synthetic and dry.fingerprint != real.fingerprint
    for data, images in ((real, 4), (dry, 8)):
        for site in data.sites:
            assert site.train and site.test and site.validation is None and site.box == boxes / site.name
            assert (len(Shard.open(site.train, box=site.box)), len(Shard.open(site.test, box=site.box))) == (images, images)
    assert federated_data(boxes, dry_run=False) == real
    assert [site.name for site in federated_data(boxes / "south", dry_run=False).sites] == ["south"]


def test_no_private_half_is_opened(boxes: Path) -> None:
    before = federated_data(boxes, dry_run=False)
    for site in before.sites:
        assert site.train
        site.train.write_text("not to be read")
        (boxes / site.name / "identity" / "private.json").unlink()
    assert federated_data(boxes, dry_run=False) == before


def test_a_dataset_made_anew_changes_the_fingerprint(tmp_path: Path) -> None:
    data = pack(tmp_path / "packed", "north", splits=("train",))
    fingerprints = []
    for name in ("a", "b"):
        create_boxes(tmp_path / name, data)
        fingerprints.append(federated_data(tmp_path / name, dry_run=False).fingerprint)
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"classes": ("cat", "cow")}, "classes cat, cow, 1 channel"),
        ({"image_size": 9}, "9 pixels"),
        ({"channels": 3}, "3 channel"),
        ({"synthetic": True}, "synthetic images"),
    ],
)
def test_sites_that_differ_are_refused_by_name(tmp_path: Path, header: dict[str, object], words: str) -> None:
    create_boxes(tmp_path / "boxes" / "n", pack(tmp_path / "one", "north", splits=("train",)))
    create_boxes(tmp_path / "boxes" / "s", pack(tmp_path / "two", "south", splits=("train",), **header))
    with pytest.raises(ConsentError, match=f"site 'south' has .*{words}.* but site 'north' has real images of classes cat, dog, 1 channel"):
        federated_data(tmp_path / "boxes", dry_run=True)


def test_splits_of_one_box_that_differ_are_refused(boxes: Path, tmp_path: Path) -> None:
    other = pack(tmp_path / "other", "north", splits=("test",), image_size=9) / "test" / "north.arrow"
    shutil.copyfile(other, find_boxes(boxes)[0].shard("test", dry_run=True))
    with pytest.raises(ConsentError, match="the mock halves of train and test do not agree"):
        federated_data(boxes, dry_run=False)


def test_a_copy_of_a_box_is_refused(boxes: Path) -> None:
    shutil.copytree(boxes / "north", boxes / "west")
    with pytest.raises(ConsentError, match=f"{boxes / 'north'} and {boxes / 'west'} have one name"):
        find_boxes(boxes)


def test_two_boxes_with_one_key_are_refused(boxes: Path) -> None:
    shutil.copytree(boxes / "north" / "identity", boxes / "south" / "identity", dirs_exist_ok=True)
    with pytest.raises(ConsentError, match="have one identity key"):
        find_boxes(boxes)


def test_boxes_that_are_not_there_or_closed_are_named(boxes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "empty", "holds no site box")):
        with pytest.raises(ConsentError, match=words):
            find_boxes(path)
    (boxes / "south").chmod(0o755)
    with pytest.raises(ConsentError, match="south: a site box with mode 0755"):
        find_boxes(boxes)


def test_a_box_under_another_folder_name_keeps_its_name(boxes: Path) -> None:
    (boxes / "north").rename(boxes / "z")
    assert [(box.name, box.path.name) for box in find_boxes(boxes)] == [("north", "z"), ("south", "south")]
    assert SiteBox.open(boxes / "z").name == "north"
