from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primia.config.settings import DataSettings
from primia.data.catalogue import Catalogue
from primia.data.packed import pack, packed_fingerprint
from primia.data.prepare import FederatedData, as_laid_out, place, prepare, prepare_evaluation, without_sites
from primia.data.shard import Shard
from primia.data.sources import open_source
from primia.errors import DataError, RunError

Write = Callable[..., None]
Make = Callable[..., Catalogue]


def settings(**fields: object) -> DataSettings:
    return DataSettings.model_validate({"image_size": 8, **fields})


def folder(path: Path, **fields: object) -> DataSettings:
    return settings(source="folder", path=path, **fields)


def held(data: FederatedData) -> dict[tuple[str, str], list[str]]:
    """Sources of each shard."""
    found = {}
    for site in data.sites:
        for split in ("train", "validation", "test"):
            if path := getattr(site, split):
                found[site.name, split] = Shard.open(path).sources
    return found


class TestPrepare:
    def test_demo_federation(self, tmp_path: Path) -> None:
        data = prepare(settings(sites=2, demo_images=30, image_size=16), tmp_path)
        assert data.synthetic and data.classes == ("bacterial", "normal", "viral") and not data.warnings
        shards = held(data)
        assert set(shards) == {(f"site-{n}", split) for n in (1, 2) for split in ("train", "validation", "test")}
        assert sum(map(len, shards.values())) == 60
        assert Shard.open(data.sites[0].train or Path()).synthetic
        assert pickle.loads(pickle.dumps(data)) == data

    def test_packs_once(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "y", names=[f"{n}.png" for n in range(12)])
        calls: list[int] = []
        first = prepare(folder(tmp_path / "in"), tmp_path / "cache", lambda what, done, total: calls.append(done))
        count = len(calls)
        assert prepare(folder(tmp_path / "in"), tmp_path / "cache", lambda what, done, total: calls.append(done)) == first
        assert count and len(calls) == count

    def test_what_was_never_packed_is_not_removed_where_shards_belong(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "y", names=[f"{n}.png" for n in range(12)])
        prepare(folder(tmp_path / "in"), tmp_path / "cache")
        (packed,) = (tmp_path / "cache").iterdir()
        shutil.rmtree(packed)
        for name in ("thesis.tex", "train/thesis.tex", "train/deep/x.arrow", "test.arrow"):
            (packed / name).parent.mkdir(parents=True, exist_ok=True)
            (packed / name).write_text("years of work")
            with pytest.raises(DataError, match="is no part of packed shards"):
                prepare(folder(tmp_path / "in"), tmp_path / "cache")
            assert (packed / name).read_text() == "years of work"
            shutil.rmtree(packed)

    def test_the_fingerprint_of_shards_is_known_before_they_are_packed(self, tmp_path: Path) -> None:
        wanted = settings(sites=11, demo_images=24, split="quantity-skew")
        placed = place(open_source(wanted), wanted)
        assert prepare(wanted, tmp_path).fingerprint == packed_fingerprint(placed)
        names = iter(["a", "a-b", "A", "a.b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a b", "0", "10", "9", "_", "z"])
        renamed = dict(zip(sorted(set(placed.sites)), names, strict=True))
        other = placed.with_places([renamed[site] for site in placed.sites], placed.splits)
        pack(other, tmp_path / "other", "error")
        assert prepare(folder(tmp_path / "other"), tmp_path).fingerprint == packed_fingerprint(other)

    def test_images_are_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        def check(fingerprint: str) -> None:
            raise RunError(fingerprint)

        with pytest.raises(RunError):
            prepare(settings(), tmp_path / "cache", check=check)
        assert not (tmp_path / "cache").exists()
        pack(place(open_source(settings()), settings()), tmp_path / "packed", "error")
        with pytest.raises(RunError):
            prepare(folder(tmp_path / "packed"), tmp_path / "cache", check=check)

    def test_shards_kept_elsewhere_are_read_and_left_as_they_are(self, tmp_path: Path) -> None:
        first = prepare(settings(), tmp_path / "kept")
        (tmp_path / "kept").chmod(0o755)
        again = prepare(settings(), tmp_path / "cache", kept=tmp_path / "kept")
        assert again == first and not (tmp_path / "cache").exists() and (tmp_path / "kept").stat().st_mode & 0o777 == 0o755
        (broken,) = (tmp_path / "kept").glob("*/notes.json")
        broken.write_text("")
        assert (tmp_path / "cache") in (prepare(settings(), tmp_path / "cache", kept=tmp_path / "kept").sites[0].train or Path()).parents
        assert broken.read_text() == ""

    def test_packs_anew_when_a_file_changes_or_a_setting_that_matters(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "y", names=[f"{n}.png" for n in range(12)])
        first = prepare(folder(tmp_path / "in"), tmp_path / "cache")
        assert prepare(folder(tmp_path / "in", normalisation="site"), tmp_path / "cache").fingerprint == first.fingerprint
        assert prepare(folder(tmp_path / "in", split_seed=2), tmp_path / "cache").fingerprint != first.fingerprint
        Image.new("L", (5, 5), 99).save(tmp_path / "in" / "x" / "0.png")
        assert prepare(folder(tmp_path / "in"), tmp_path / "cache").fingerprint != first.fingerprint

    def test_packs_anew_when_a_cached_shard_is_broken(self, tmp_path: Path) -> None:
        wanted = settings(sites=1, demo_images=12, image_size=16)
        data = prepare(wanted, tmp_path)
        path = data.sites[0].train or Path()
        path.write_bytes(path.read_bytes()[:500])
        assert prepare(wanted, tmp_path) == data
        assert len(Shard.open(path)) > 0

    def test_sites_and_splits_of_a_folder_stay_as_they_are(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "train/a/x", "train/a/y", "validation/a/x", "validation/a/y", "test/b/x", "test/b/y", names=["1.png"])
        data = prepare(folder(tmp_path / "in"), tmp_path / "cache")
        assert held(data) == {
            ("a", "train"): ["train/a/x/1.png", "train/a/y/1.png"],
            ("a", "validation"): ["validation/a/x/1.png", "validation/a/y/1.png"],
            ("b", "test"): ["test/b/x/1.png", "test/b/y/1.png"],
        }

    def test_central_validation_has_a_holder_and_the_test_is_cut_from_sites(self, tmp_path: Path, write_images: Write) -> None:
        names = [f"{n}.png" for n in range(10)]
        write_images(tmp_path / "in", "w1/x", "w1/y", "w2/x", "w2/y", names=names)
        write_images(tmp_path / "in", "validation/x", "validation/y", names=["v.png"])
        data = prepare(folder(tmp_path / "in", test_fraction=0.2), tmp_path / "cache")
        central = data.sites[0]
        assert (central.name, central.train, central.test) == ("central", None, None)
        sizes = {place: len(sources) for place, sources in held(data).items()}
        assert sizes == {
            ("central", "validation"): 2, ("w1", "train"): 16, ("w1", "test"): 4, ("w2", "train"): 16, ("w2", "test"): 4,
        }  # fmt: skip

    def test_packed_shards_are_used_where_they_lie(self, tmp_path: Path, make_catalogue: Make) -> None:
        made = make_catalogue([0, 1] * 3, sites=["a"] * 6, splits=["train", "train", "validation", "validation", "test", "test"])
        pack(made, tmp_path / "packed", "error")
        data = prepare(folder(tmp_path / "packed"), tmp_path / "cache")
        assert data.sites[0].train == tmp_path / "packed" / "train" / "a.arrow"
        assert not (tmp_path / "cache").exists()

    def test_packed_shards_without_splits_are_split(self, tmp_path: Path, make_catalogue: Make) -> None:
        pack(make_catalogue([0, 1] * 10, sites=["a"] * 20, splits=["train"] * 20), tmp_path / "packed", "error")
        data = prepare(folder(tmp_path / "packed", validation_fraction=0.2, test_fraction=0.1), tmp_path / "cache")
        assert {place: len(sources) for place, sources in held(data).items()} == {
            ("a", "train"): 14, ("a", "validation"): 4, ("a", "test"): 2,
        }  # fmt: skip

    def test_packed_at_another_size_is_an_error_with_the_remedy(self, tmp_path: Path, make_catalogue: Make) -> None:
        pack(make_catalogue([0, 1], sites=["a"] * 2, splits=["train"] * 2), tmp_path / "packed", "error")
        with pytest.raises(DataError, match=r"at 8 pixels, not 1 at 64; set data\.channels = 1 and data\.image_size = 8"):
            prepare(folder(tmp_path / "packed", image_size=64), tmp_path / "cache")

    def test_bad_images_by_policy(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "y", names=[f"{n}.png" for n in range(12)])
        (tmp_path / "in" / "x" / "note.png").write_text("no picture")
        with pytest.raises(DataError, match=r"1 image\(s\) cannot be read: .*note\.png"):
            prepare(folder(tmp_path / "in"), tmp_path / "cache")
        assert not any((tmp_path / "cache").iterdir())
        data = prepare(folder(tmp_path / "in", on_bad_image="skip"), tmp_path / "cache")
        assert len(data.skipped) == 1 and "note.png" in data.skipped[0]
        with pytest.raises(DataError):
            prepare(folder(tmp_path / "in"), tmp_path / "cache")

    def test_too_few_patients_to_validate(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "a/x", "a/y", names=["1.png"])
        with pytest.raises(DataError, match="too few patients at every site for validation images"):
            prepare(folder(tmp_path / "in"), tmp_path / "cache")

    def test_patient_in_two_splits_is_a_warning(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "train/x", "train/y", "validation/x", "validation/y", names=["person1_virus_1.png"])
        write_images(tmp_path / "in", "test/x", "test/y", names=["person2_virus_1.png"])
        (warning,) = prepare(folder(tmp_path / "in"), tmp_path / "cache").warnings
        assert "1 patient(s) in more than one split, the first being 'person1' in train and validation" in warning

    def test_many_tiny_sites_are_quick(self, tmp_path: Path, make_catalogue: Make) -> None:
        labels = [0, 1] * 900
        sites = [f"s{index // 6}" for index in range(1800)]
        start = time.perf_counter()
        placed = place(make_catalogue(labels, sites=sites), settings())
        assert time.perf_counter() - start < 2.0
        assert len(set(placed.places())) == 900

    @pytest.mark.slow
    def test_mnist(self, tmp_path: Path, shared_data: Path) -> None:
        data = prepare(settings(source="mnist", path=shared_data / "mnist", sites=3, split="label-skew"), tmp_path)
        shards = {place: len(sources) for place, sources in held(data).items()}
        assert shards.pop(("central", "test")) == 10000
        assert sum(shards.values()) == 60000 and len(shards) == 6

    def test_chest_x_rays_are_split_by_patient(self, tmp_path: Path, shared_data: Path) -> None:
        data = prepare(folder(shared_data / "chest_xray", image_size=16), tmp_path)
        assert data.classes == ("bacterial", "normal", "viral")
        owners: dict[str, set[Path]] = {}
        counts = np.zeros(3, dtype=int)
        for site in data.sites:
            for path in (site.train, site.validation, site.test):
                shard = Shard.open(path or Path())
                counts += shard.class_counts()
                for patient in shard.patients:
                    owners.setdefault(patient, set()).add(shard.path)
                assert np.abs(shard.class_counts() / len(shard) - [0.485, 0.257, 0.258]).max() < 0.03
        assert counts.tolist() == [2530, 1341, 1345]
        assert len(owners) == 2635 and all(len(places) == 1 for places in owners.values())


class TestPrepareEvaluation:
    def test_all_images_of_a_class_folder_in_the_models_order(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "y")
        data = self.evaluated(tmp_path, ["z", "y", "x"])
        (site,) = data.sites
        assert (site.train, site.validation) == (None, None)
        assert Shard.open(site.test or Path()).class_counts().tolist() == [0, 4, 4]

    def test_only_the_test_split_where_there_is_one(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "train/a/x", "train/a/y", "test/a/x", "test/a/y")
        assert [source.split("/")[0] for source in held(self.evaluated(tmp_path, ["x", "y"]))["a", "test"]] == ["test"] * 8

    def test_unknown_class_is_an_error(self, tmp_path: Path, write_images: Write) -> None:
        write_images(tmp_path / "in", "x", "q")
        with pytest.raises(DataError, match="class 'q' is none of 'x', 'y'"):
            self.evaluated(tmp_path, ["x", "y"])

    @staticmethod
    def evaluated(root: Path, classes: list[str]) -> FederatedData:
        return prepare_evaluation(root / "in", classes=classes, channels=1, image_size=8, cache=root / "cache")


def test_as_laid_out_makes_no_split(make_catalogue: Make) -> None:
    placed = as_laid_out(make_catalogue([0, 1, 0], sites=["", "a", ""], splits=["", "", "test"]))
    assert placed.places() == [("site", "train"), ("a", "train"), ("central", "test")]


def test_without_sites_refuses_sites_of_the_source(make_catalogue: Make) -> None:
    assert set(without_sites(make_catalogue([0, 1], sites=["site", "central"])).sites) == {""}
    with pytest.raises(DataError, match="laid out by site already"):
        without_sites(make_catalogue([0, 1], sites=["a", "b"]))
