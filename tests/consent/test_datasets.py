from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from syft_datasets.dataset_manager import SyftDatasetManager
from syft_perms import SyftPermContext

from primia.config.settings import FederationSettings
from primia.consent import datasets as box_datasets
from primia.consent.datasets import BoxDatasets, dataset_name, identity_name, site_name
from primia.errors import ConsentError

OWNER = "data@north.example"


@pytest.fixture
def half(tmp_path: Path) -> Callable[[str], Path]:
    """A file that could be one half of a dataset of site north."""

    def make(content: str, name: str = "north.arrow") -> Path:
        path = tmp_path / content / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    return make


@pytest.fixture
def datasets(tmp_path: Path, half: Callable[[str], Path]) -> BoxDatasets:
    made = BoxDatasets(tmp_path / "syft", OWNER, "north", ["train", "test"])
    for name in made.names:
        made.create(name, mock=half("mock"), private=half("private"), synthetic=name == "test")
    return made


def test_each_half_is_one_file_that_syft_itself_finds(datasets: BoxDatasets) -> None:
    found = SyftDatasetManager(datasets.folder, OWNER)
    assert sorted(dataset.name for dataset in found.get_all()) == ["test", "train"]
    for name in datasets.names:
        assert found.get(name).private_files == [datasets.shard(name, mock=False)]
        assert found.get(name).mock_files == [datasets.shard(name, mock=True)]
        assert datasets.shard(name, mock=False).read_text() == "private"
        assert datasets.shard(name, mock=True).read_text() == "mock"


def test_the_mock_half_is_for_anybody_and_the_private_half_for_its_owner(datasets: BoxDatasets) -> None:
    context = SyftPermContext(datasets.datasite)
    for name in datasets.names:
        mock, private = (context.open(f"{half}/syft_datasets/v1/{name}/") for half in ("public", "private"))
        assert mock.has_read_access("anybody@else.example") and not mock.has_write_access("anybody@else.example")
        assert private.has_read_access(OWNER) and not private.has_read_access("anybody@else.example")
    assert datasets.permission_files() == set(datasets.folder.rglob("syft.pub.yaml"))


def test_datasets_are_told_apart_and_described_without_their_content(datasets: BoxDatasets) -> None:
    assert datasets.uid("train") != datasets.uid("test")
    assert not datasets.synthetic("train") and datasets.synthetic("test")
    public = yaml.safe_load((datasets.mock_folder("train") / "dataset.yaml").read_text())
    assert public["summary"] == "train images of north" and public["tags"] == []


def test_no_path_of_this_machine_is_written(datasets: BoxDatasets, tmp_path: Path) -> None:
    for path in datasets.folder.rglob("*.yaml"):
        assert str(tmp_path) not in path.read_text()


BAD_DATASETS = ["../../evil", "..", "", "v1", "train/", "Train", "train\n", "*", "other", "train.test"]


@pytest.mark.parametrize("name", BAD_DATASETS)
def test_names_that_lead_elsewhere_are_refused_everywhere(datasets: BoxDatasets, half: Callable[[str], Path], name: str) -> None:
    before = sorted(datasets.folder.parent.rglob("*"))
    for attempt in (
        lambda: dataset_name(name),
        lambda: BoxDatasets(datasets.folder, OWNER, "north", [name]),
        lambda: datasets.create(name, mock=half("mock"), private=half("private"), synthetic=False),
        lambda: datasets.shard(name, mock=False),
        lambda: datasets.private_folder(name),
        lambda: datasets.uid(name),
    ):
        with pytest.raises(ConsentError, match="is no dataset of a site box"):
            attempt()
    assert sorted(datasets.folder.parent.rglob("*")) == before


def test_syft_itself_would_write_outside(tmp_path: Path, half: Callable[[str], Path]) -> None:
    """The reason for the check: if this fails, Syft has become stricter."""
    manager = SyftDatasetManager(tmp_path / "other", OWNER)
    manager.create(name="../../../../evil", mock_path=half("mock"), private_path=half("private"), protocol_versions=["1"])
    assert (tmp_path / "other" / "evil").is_dir() and not (tmp_path / "other" / OWNER / "public" / "syft_datasets" / "v1" / "evil").exists()


@pytest.mark.parametrize("name", ["..", "", "-x", "a b", "a/b", ".hidden", "*", "north\n", "nörd"])
def test_bad_site_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConsentError, match="cannot name a site box"):
        site_name(name)
    with pytest.raises(ConsentError, match="cannot name a site box"):
        BoxDatasets(tmp_path, OWNER, name, ["train"])


WILD = ["*", "*@hospital.example", "study@*", "study?@hospital.example", "[a-z]@hospital.example", "USER", "{{.UserEmail}}", "any"]
NONE = [
    "",
    "study",
    "@hospital.example",
    "study@",
    "Study@hospital.example",
    " study@hospital.example",
    "study@hospital.example\n",
    "a@b@c",
]


@pytest.mark.parametrize("name", WILD + NONE + ["../x@y", "study@hospital/../..", "stüdy@hospital.example"])
def test_what_is_not_one_identity_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConsentError, match="names no single federation"):
        identity_name(name)
    with pytest.raises(ConsentError, match="names no single federation"):
        BoxDatasets(tmp_path, name, "north", ["train"])


def test_identities_are_those_of_the_settings() -> None:
    pattern = FederationSettings.model_json_schema()["properties"]["identity"]["pattern"]
    assert pattern == f"^{box_datasets._IDENTITY.pattern}$"
    assert identity_name(FederationSettings().identity) == "demo@primia.example"


def test_links_folders_and_other_names_are_no_halves(datasets: BoxDatasets, half: Callable[..., Path], tmp_path: Path) -> None:
    fresh = BoxDatasets(tmp_path / "fresh", OWNER, "north", ["train"])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "north.arrow").symlink_to(half("secret"))
    folder = tmp_path / "folder" / "north.arrow"
    (folder / "nested").mkdir(parents=True)
    for bad in (tmp_path / "linked" / "north.arrow", folder, half("other", "south.arrow"), tmp_path / "nowhere" / "north.arrow"):
        for halves in ({"mock": bad, "private": half("private")}, {"mock": half("mock"), "private": bad}):
            with pytest.raises(ConsentError, match=r"not one file north\.arrow"):
                fresh.create("train", synthetic=False, **halves)
    assert not (tmp_path / "fresh" / OWNER).exists()


def test_paths_in_syfts_description_are_not_followed(datasets: BoxDatasets) -> None:
    description = datasets.mock_folder("train") / "dataset.yaml"
    description.write_text(description.read_text().replace("/v1/train", "/../../../../etc"))
    assert datasets.shard("train", mock=True) == datasets.mock_folder("train") / "north.arrow"
    assert datasets.shard("train", mock=True).read_text() == "mock"


def test_what_is_missing_or_damaged_is_named(datasets: BoxDatasets) -> None:
    datasets.shard("train", mock=False).unlink()
    with pytest.raises(ConsentError, match=r"private/syft_datasets/v1/train/north.arrow: missing"):
        datasets.shard("train", mock=False)
    (datasets.mock_folder("train") / "dataset.yaml").write_text("uid: [")
    with pytest.raises(ConsentError, match="Syft cannot read this dataset"):
        datasets.uid("train")
    (datasets.mock_folder("train") / "dataset.yaml").write_text("a: &a [x, x]\nuid: [*a, *a]")
    with pytest.raises(ConsentError, match="holds an anchor"):
        datasets.uid("train")
