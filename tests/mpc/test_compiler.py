from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from primia.errors import ModelError, PrimiaError
from primia.mpc.compiler import Compiled, Precision, compile_as, compile_network, encode_images
from primia.mpc.oracle import random_rounding
from primia.mpc.ring import signed
from primia.mpc.workers import Workers

SHAPE = (2, 8, 8)
IMAGES = torch.randn(11, *SHAPE, generator=torch.Generator().manual_seed(0))


class Network(nn.Sequential):
    """Two convolutions with maxima between them; ``sizes`` scale their weights."""

    def __init__(self, *sizes: float) -> None:
        generator = torch.Generator().manual_seed(1)
        super().__init__(
            nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
        for index, size in zip((0, 3, 6), sizes, strict=True):
            self[index].weight.data.normal_(0, 0.3 * size, generator=generator)
            self[index].bias.data.normal_(0, 0.1 * size, generator=generator)


def compiled(model: nn.Module, images: Tensor = IMAGES, **options: int) -> Compiled:
    return compile_network(model, SHAPE, images, Precision(**options), Workers(1))


def sums(model: nn.Module) -> list[float]:
    """The largest sum of each layer on the images, by size."""
    found = []
    with torch.no_grad():
        for index in (0, 3, 6):
            found.append(float(nn.Sequential(*list(model)[: index + 1])(IMAGES).abs().max()))
    return found


@pytest.mark.parametrize("spare_bits", [0, 1, 2, 4])
@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (6.0, 0.2, 1.0)])
def test_widths_hold_the_largest_value_and_the_spare_bits(sizes: tuple[float, ...], spare_bits: int) -> None:
    model = Network(*sizes)
    result = compiled(model, spare_bits=spare_bits)
    for layer, largest in zip(result.program.layers[:-1], sums(model), strict=False):
        assert largest * 2 ** (10 + spare_bits) <= 2**layer.comparison_bits < 2 * largest * 2 ** (10 + spare_bits)


def test_differences_have_a_width_of_their_own() -> None:
    model = Network(1.0, 1.0, 1.0)
    first = compiled(model, spare_bits=0).program.layers[0]
    with torch.no_grad():
        maps = model[0](IMAGES)
    spread = max(float((maps[..., ::2] - maps[..., 1::2]).abs().max()), 1e-9)
    assert spread <= 2 ** (first.pool_bits - 10) <= 8 * spread


@pytest.mark.parametrize("bits", [32, 40])
def test_what_the_ring_has_left_goes_to_the_weights(bits: int) -> None:
    program = compiled(Network(8.0, 8.0, 8.0), bits=bits).program
    for layer in program.layers:
        width = max(layer.comparison_bits, layer.pool_bits)
        assert 9 <= layer.weight_bits <= 14
        assert layer.last or layer.weight_bits == 14 or layer.weight_bits + width + 3 == program.bits
        assert layer.last or program.value_bits(layer) >= width + 3
    assert program.bits >= bits and any(layer.weight_bits < 14 for layer in program.layers)


@pytest.mark.parametrize("size", [1.0, 100.0, 3000.0])
def test_larger_values_take_a_wider_ring_and_stay_as_near(size: int) -> None:
    model = Network(size, 1.0, 1.0)
    result = compiled(model)
    largest = float(model(IMAGES).detach().abs().max())
    assert (result.program.bits > 32) == (size > 1)
    assert result.agreement.images == result.agreement.same_class == len(IMAGES)
    assert result.agreement.largest_error < 0.01 * largest


def test_a_wider_ring_gives_the_secure_result_of_the_oracle(kit: SimpleNamespace) -> None:
    result = compiled(Network(300.0, 1.0, 1.0))
    parties = kit.parties_of(result.program, result.weights, list(result.biases))
    kept, values = parties.preprocess(3), result.encoded(IMAGES[:3])
    assert kit.same_results(parties.online(values, kept), parties.oracle(values, kept))


@pytest.mark.parametrize(("sizes", "named"), [((1e7, 1.0, 1.0), "0"), ((1.0, 1e7, 1e-7), "3"), ((1.0, 1.0, 1e8), "6")])
def test_values_beyond_comparisons_are_refused_by_layer_and_value(sizes: tuple[float, ...], named: str) -> None:
    with pytest.raises(ModelError, match=rf"^{named}: values up to \d.*e\+0\d need comparisons of \d\d bits, more than 32") as error:
        compiled(Network(*sizes))
    value = float(str(error.value).split()[4])
    assert value >= 0.99 * sums(Network(*sizes))["036".index(named)] > 2**19


def test_rings_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ModelError, match="more than 64 bits"):
        compiled(Network(1.0, 1.0, 1.0), bits=65)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("index", [0, 3])
def test_weights_that_are_no_numbers_are_refused_by_layer(index: int, value: float) -> None:
    model = Network(1.0, 1.0, 1.0)
    model[index].bias.data[1] = value
    with pytest.raises(ModelError, match=f"^{index}: "):
        compiled(model)


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize(("name", "size"), [("convnet", 28), ("convnet", 32), ("resnet18", 32)])
def test_shipped_networks_agree_with_floating_point(kit: SimpleNamespace, name: str, size: int, pooling: str) -> None:
    model, images, result = kit.shipped(name, pooling, size)
    agreement = result.agreement
    with torch.no_grad():
        expected = model(images).numpy()
    # An untrained network may put two classes nearer to each other than rounding does.
    second, first = np.sort(expected)[:, -2:].T
    clear = int((first - second > 2 * agreement.largest_error).sum())
    assert agreement.images == len(images) and agreement.same_class >= clear and result.program.bits == 32
    assert 0 < agreement.largest_error < 0.05 * max(1.0, np.abs(expected).max())
    found = result.oracle(Workers(1)).run(result.encoded(images), random_rounding(bytes(16)))
    assert np.abs(found.outputs - expected).max() < 2 * agreement.largest_error + 0.01


def test_weights_and_images_are_encoded_to_the_nearest() -> None:
    model = Network(1.0, 1.0, 1.0)
    result = compiled(model)
    bits, first = result.program.bits, result.program.layers[0]
    weights = signed(result.weights[0][0], bits) / 2.0**first.weight_bits
    assert np.abs(weights - model[0].weight.detach().flatten(1).numpy()).max() <= 2.0 ** -(first.weight_bits + 1)
    biases = signed(result.biases[0], bits) / 2.0 ** (first.weight_bits + 10)
    assert np.abs(biases - model[0].bias.detach().numpy()).max() <= 2.0 ** -(first.weight_bits + 11) + 1e-9
    images = signed(result.encoded(IMAGES), bits) / 2.0**10
    assert images.shape == (2, 11, 8, 8) and np.abs(images.swapaxes(0, 1) - IMAGES.numpy()).max() <= 2.0**-11


class InPlace(nn.Module):
    """Its ReLU changes what is added later: no layer shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        result: Tensor = self.last(torch.relu(self.second(nn.functional.relu(y, inplace=True)) + y))
        return result


def test_what_layers_do_not_show_is_refused() -> None:
    with pytest.raises(ModelError, match="does something that its layers do not show"):
        compiled(InPlace())


def test_a_network_is_compiled_again_to_the_same_program() -> None:
    model = Network(1.0, 1.0, 1.0)
    result = compiled(model)
    again = compile_as(result.program, model)
    assert again.program == result.program
    assert all(
        np.array_equal(a, b) for ours, theirs in zip(again.weights, result.weights, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
    assert all(map(np.array_equal, again.biases, result.biases))


def test_another_network_is_not_compiled_to_a_program() -> None:
    program = compiled(Network(1.0, 1.0, 1.0)).program
    fewer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    wider = Network(1.0, 1.0, 1.0)
    wider[6] = nn.Linear(16, 4)
    for other in (fewer, wider):
        with pytest.raises(ModelError, match="made for another network"):
            compile_as(program, other)


class Levels(nn.Module):
    """Upsampling of two levels by one module, as U-Nets have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 6, 8), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.first(x)))
        result: Tensor = self.last(self.up(torch.relu(self.second(y))))
        return result


def test_one_upsampling_for_two_levels(kit: SimpleNamespace) -> None:
    result = compiled(Levels())
    parties = kit.parties_of(result.program, result.weights, list(result.biases))
    kept, values = parties.preprocess(1), result.encoded(IMAGES[:1])
    assert kit.same_results(parties.online(values, kept), parties.oracle(values, kept))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**22])
def test_pixels_that_the_ring_does_not_hold_are_refused(value: float) -> None:
    program = compiled(Network(1.0, 1.0, 1.0)).program
    pixels = IMAGES[:1].numpy().copy()
    pixels[0, 0, 0, 0] = value
    with pytest.raises(PrimiaError):
        encode_images(program, pixels)
