from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primia.data import decode as decoding
from primia.data.decode import BadImage, decode


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def gradient(dtype: type[np.generic], highest: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.tile(np.linspace(0, highest, 16).round().astype(dtype), (16, 1))


def test_grey_image_of_the_right_size_comes_back_unchanged(tmp_path: Path) -> None:
    pixels = gradient(np.uint8, 255)
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(decode(path, channels=1, image_size=16), pixels[None])
    assert np.array_equal(decode(path, channels=3, image_size=16), np.stack([pixels] * 3))


def test_colour_keeps_its_channels_in_order(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (9, 9), (10, 20, 30)), tmp_path / "a.bmp")
    assert decode(path, channels=3, image_size=8)[:, 4, 4].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_by_its_full_range(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(gradient(np.uint16, 65535)), tmp_path / f"a.{suffix}")
    decoded = decode(path, channels=1, image_size=16)[0, 0].astype(int)
    assert np.abs(decoded - np.linspace(0, 255, 16)).max() <= 1


def test_floats_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    values = np.linspace(-1000, 3000, 256, dtype=np.float32).reshape(16, 16)
    decoded = decode(save(Image.fromarray(values), tmp_path / "a.tif"), channels=3, image_size=16)
    assert decoded.shape == (3, 16, 16)
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_constant_floats_are_black_not_an_error(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((8, 8), 7.0, dtype=np.float32)), tmp_path / "a.tif")
    assert not decode(path, channels=1, image_size=8).any()


def test_palette_gives_the_colours_not_the_indices(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 200, 200])
    assert decode(save(image, tmp_path / "a.png"), channels=1, image_size=8)[0, 0, 0] == 200


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = save(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    decoded = decode(path, channels=1, image_size=16)[0]
    assert decoded[0, 0] == 0 and decoded[15, 0] == 255


def test_shrinking_averages_instead_of_picking_pixels(tmp_path: Path) -> None:
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    path = save(Image.fromarray(checkers.astype(np.uint8)), tmp_path / "a.png")
    assert np.abs(decode(path, channels=1, image_size=8).astype(int) - 127).max() <= 2


def test_wide_image_is_stretched_whole(tmp_path: Path) -> None:
    pixels = np.zeros((10, 40), dtype=np.uint8)
    pixels[:, 20:] = 255
    decoded = decode(save(Image.fromarray(pixels), tmp_path / "a.png"), channels=1, image_size=10)[0]
    assert decoded[:, :4].max() == 0 and decoded[:, 6:].min() == 255


def test_large_jpeg_keeps_its_grey_values(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (800, 600), (90, 90, 90)), tmp_path / "a.jpeg")
    assert np.abs(decode(path, channels=1, image_size=16).astype(int) - 90).max() <= 1


def test_truncated_jpeg_is_a_bad_image_that_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(BadImage, match=r"cut\.jpg: cannot be read as an image .*truncated"):
        decode(path, channels=1, image_size=8)


def test_text_named_png_is_a_bad_image(tmp_path: Path) -> None:
    path = tmp_path / "note.png"
    path.write_text("no picture")
    with pytest.raises(BadImage, match=r"note\.png.*no image of a known format"):
        decode(path, channels=1, image_size=8)


def test_link_to_nothing_is_a_bad_image(tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    path.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BadImage, match="link to nothing"):
        decode(path, channels=1, image_size=8)


def test_real_chest_x_ray(shared_data: Path) -> None:
    path = shared_data / "chest_xray" / "normal" / "IM-0115-0001.jpeg"
    decoded = decode(path, channels=1, image_size=112)
    assert decoded.shape == (1, 112, 112)
    assert 40 < decoded.mean() < 200 and decoded.std() > 20


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(BadImage, match="no regular file"):
        decode(tmp_path / "x.png", channels=1, image_size=8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_a_small_file_of_many_pixels_is_refused(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a picture of one colour, whose pixels take a thousand times its bytes, and more while they are scaled."""
    monkeypatch.setattr(decoding, "PIXEL_LIMIT", 200 * 300)
    Image.new(mode, (300, 200)).save(tmp_path / "fits.png")
    assert decode(tmp_path / "fits.png", channels=1, image_size=8).shape == (1, 8, 8)
    Image.new(mode, (300, 201)).save(tmp_path / "bomb.png")
    with pytest.raises(BadImage, match="300 x 201 pixels, more than 60000"):
        decode(tmp_path / "bomb.png", channels=1, image_size=8)
