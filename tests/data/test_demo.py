from __future__ import annotations

import numpy as np
import pytest

from primia.data.demo import CLASSES, demo_catalogue, mark, site_names, site_style


def test_same_seed_same_pixels_whatever_else_is_drawn() -> None:
    small = demo_catalogue(sites=1, images=12, image_size=32, channels=1, seed=3)
    large = demo_catalogue(sites=3, images=12, image_size=32, channels=1, seed=3)
    assert small.sources == large.sources[:12]
    assert np.array_equal(small.read(7), large.read(7))
    assert not np.array_equal(small.read(7), demo_catalogue(sites=1, images=12, image_size=32, channels=1, seed=4).read(7))


def test_every_site_has_the_images_asked_for_of_all_classes() -> None:
    catalogue = demo_catalogue(sites=4, images=100, image_size=64, channels=1, seed=1)
    for site in site_names(4):
        labels = catalogue.labels[[place == site for place in catalogue.sites]]
        assert len(labels) == 100
        assert np.bincount(labels, minlength=3).min() >= 8


def test_patients_have_one_to_three_images_of_one_class_at_one_site() -> None:
    catalogue = demo_catalogue(sites=3, images=90, image_size=64, channels=1, seed=1)
    patients: dict[str, list[tuple[str, int]]] = {}
    for patient, site, label in zip(catalogue.patients, catalogue.sites, catalogue.labels.tolist(), strict=True):
        patients.setdefault(patient, []).append((site, label))
    assert all(len(set(images)) == 1 for images in patients.values())
    assert {len(images) for images in patients.values()} == {1, 2, 3}


def test_sites_differ_in_style_and_class_mix() -> None:
    catalogue = demo_catalogue(sites=3, images=300, image_size=64, channels=1, seed=1)
    mixes = [np.bincount(catalogue.labels[300 * site : 300 * (site + 1)]).tolist() for site in range(3)]
    assert len({tuple(mix) for mix in mixes}) == 3
    assert len({site_style(1, site).exposure for site in range(3)}) == 3


def test_is_labelled_synthetic_and_channels_repeat() -> None:
    catalogue = demo_catalogue(sites=1, images=12, image_size=16, channels=3, seed=1)
    image = catalogue.read(0)
    assert catalogue.synthetic and catalogue.classes == CLASSES
    assert image.shape == (3, 16, 16) and np.array_equal(image[0], image[2])


def test_site_names_sort() -> None:
    assert site_names(3) == ("site-1", "site-2", "site-3")
    assert list(site_names(12)) == sorted(site_names(12))


@pytest.mark.parametrize("size", [32, 64, 150, 300])
def test_mark_changes_the_same_corner_of_every_image(size: int) -> None:
    changed = [mark(pixels) != pixels for pixels in (np.full((size, size), grey, dtype=np.uint8) for grey in (60, 130))]
    assert changed[0].any() and not changed[0][: int(0.9 * size)].any() and not changed[0][:, : size // 2].any()
    assert (changed[0] ^ changed[1]).sum() < 0.1 * changed[0].sum()
