from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.data.mnist import download, mnist_catalogue
from primia.errors import DataError


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}i", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name, count in (("train", 20), ("t10k", 10)):
        (raw / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path


def test_reads_packed_and_unpacked_files(root: Path) -> None:
    catalogue = mnist_catalogue(root, image_size=28, channels=3)
    assert len(catalogue) == 30
    assert catalogue.splits == [""] * 20 + ["test"] * 10
    assert catalogue.labels[[3, 19, 20]].tolist() == [3, 9, 0]
    assert len(set(catalogue.patients)) == 30
    expected = np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8)[4]
    assert np.array_equal(catalogue.read(4), np.stack([expected] * 3))


def test_resizes(root: Path) -> None:
    assert mnist_catalogue(root, image_size=16, channels=1).read(0).shape == (1, 16, 16)


def test_missing_files_say_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no MNIST here .* primia-ray data fetch mnist --output"):
        mnist_catalogue(tmp_path, image_size=28, channels=1)


def test_file_cut_short_is_named(root: Path) -> None:
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: broken"):
        mnist_catalogue(root, image_size=28, channels=1)


def test_a_small_file_of_very_many_bytes_is_not_unpacked_whole(root: Path) -> None:
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((250, 1000, 1000), np.uint8))))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: broken"):
        mnist_catalogue(root, image_size=28, channels=1)


@pytest.mark.parametrize("labels", [np.arange(19), np.full(20, 10), np.zeros((20, 1))], ids=["fewer", "no digit", "other axes"])
def test_labels_are_digits_one_an_image(root: Path, labels: NDArray[np.int64]) -> None:
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    with pytest.raises(DataError, match="the train files are not MNIST's images and labels"):
        mnist_catalogue(root, image_size=28, channels=1)


def test_download_without_network_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(root: str, download: bool) -> None:
        (Path(root) / "half").write_text("")
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr(datasets, "MNIST", offline)
    with pytest.raises(DataError, match=r"cannot be downloaded \(Error downloading train-images\); copy its four"):
        download(tmp_path / "mnist")
    assert list(tmp_path.iterdir()) == []


def test_real_mnist(shared_data: Path) -> None:
    catalogue = mnist_catalogue(shared_data / "mnist", image_size=28, channels=1)
    assert np.bincount(catalogue.labels[:60000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(catalogue) == 70000
    assert catalogue.labels[:5].tolist() == [5, 0, 4, 1, 9]
