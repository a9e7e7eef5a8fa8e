"""Sums of clipped gradients: against a loop over images, against Opacus, and against whoever chooses weights and images."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional as F

from primia.errors import ConfigError, PrivacyError
from primia.privacy import clipping
from primia.privacy.clipping import ClippedSum
from primia.privacy.sampling import micro_batches

MakeModel = Callable[..., nn.Module]
NETWORKS = [("convnet", "group", 16), ("convnet", "weight", 16), ("resnet18", "group", 32), ("resnet18", "weight", 32)]


def losses_of(model: nn.Module, smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: F.cross_entropy(model(images), labels, reduction="none", label_smoothing=smoothing)


def batch(size: int, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, size, size, generator=generator) * torch.linspace(0.2, 2.0, count)[:, None, None, None]
    layout = torch.empty_like(images, memory_format=torch.channels_last)  # as unit_images lays them out, also of one channel
    return layout.copy_(images), torch.randint(0, 3, (count,), generator=generator)


def unit_gradients(model: nn.Module, images: Tensor, labels: Tensor, owner: list[int]) -> list[Tensor]:
    """The gradient of the mean loss of each unit's images."""
    gradients = []
    for unit in range(max(owner) + 1):
        own = [i for i, each in enumerate(owner) if each == unit]
        loss = losses_of(model)(images[own], labels[own]).mean()
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]))
    return gradients


def norm(vector: Tensor) -> float:
    return float(vector.double().norm())


def clipped_sum(gradients: list[Tensor], clip: float) -> Tensor:
    return torch.stack([min(1.0, clip / norm(gradient)) * gradient for gradient in gradients]).sum(0)


def steps(model: nn.Module, images: Tensor, labels: Tensor, owner: list[int], clip: float, losses: clipping.Losses | None = None) -> Tensor:
    """The sum in whole steps; images of an owner beyond those before only fill up."""
    summed = ClippedSum(model, losses or losses_of(model), clip)
    total = summed.zeros()
    units = max(owner) + 1
    summed.add_to(total, images, labels, torch.tensor(owner), units)
    assert bool((total == total.round()).all()), "not whole"
    return total


def total(model: nn.Module, images: Tensor, labels: Tensor, owner: list[int], clip: float) -> Tensor:
    return steps(model, images, labels, owner, clip) * ClippedSum(model, losses_of(model), clip).step


def exact_norm(whole: Tensor) -> float:
    """Without rounding: the root of a sum of squares of whole numbers."""
    return float(sum(int(value) ** 2 for value in whole.tolist()) ** 0.5)


def close(ours: Tensor, expected: Tensor) -> bool:
    """To a hundredth of the whole gradient's norm."""
    return norm(ours - expected) < 1e-2 * norm(expected)


@pytest.mark.parametrize(("name", "normalisation", "size"), NETWORKS)
def test_equals_a_loop_over_images(name: str, normalisation: str, size: int, make_model: MakeModel) -> None:
    model, (images, labels) = make_model(name, normalisation, size), batch(size)
    gradients = unit_gradients(model, images, labels, list(range(6)))
    clip = sorted(norm(gradient) for gradient in gradients)[3]  # some are clipped, some not
    assert close(total(model, images, labels, list(range(6)), clip), clipped_sum(gradients, clip))


@pytest.mark.parametrize("owner", [[0, 0, 0, 1, 2, 2], [2, 0, 1, 0, 2, 0], [0, 1, 2, 3, 4, 4]])
def test_a_units_views_are_averaged_then_clipped_once(owner: list[int], make_model: MakeModel) -> None:
    model, (images, labels) = make_model(), batch(16)
    gradients = unit_gradients(model, images, labels, owner)
    clip = sorted(norm(gradient) for gradient in gradients)[1]
    assert close(total(model, images, labels, owner, clip), clipped_sum(gradients, clip))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_equals_opacus(make_model: MakeModel) -> None:
    """On contiguous maps and a network that it can wrap; with no noise its optimiser leaves the clipped sum."""
    model, (images, labels), clip = make_model(normalisation="group"), batch(16), 0.7
    ours = total(model, images, labels, list(range(6)), clip)
    wrapped = GradSampleModule(model.to(memory_format=torch.contiguous_format), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), 0.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=None, loss_reduction="sum"
    )
    losses_of(wrapped)(images.clone(memory_format=torch.contiguous_format), labels).sum().backward()
    optimizer.step()
    assert close(ours, torch.cat([parameter.grad.flatten() for parameter in wrapped.parameters() if parameter.grad is not None]))


# --- one unit more changes the sum by no more than the clipping norm ---------------------------------------------------------


def sensitivity(
    model: nn.Module, images: Tensor, labels: Tensor, owner: list[int], clip: float, losses: clipping.Losses | None = None
) -> float:
    """The exact change of the sum by its last unit, over the clipping norm; in a batch of one size, as micro-batches have."""
    last = max(owner)
    every = steps(model, images, labels, owner, clip, losses)
    fewer = ClippedSum(model, losses or losses_of(model), clip)
    without = fewer.zeros()
    fewer.add_to(without, images, labels, torch.tensor(owner), last)
    return exact_norm(every - without) * fewer.step / clip


def amplifying(model: nn.Module, gain: float, constant: float) -> nn.Module:
    """Start weights of an attacker's choice: a first layer whose maps are a large constant and whose gradients sum to zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(gain ** (1 / 4))
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.weight.add_(constant / first.weight[0].numel())
    return model


@pytest.mark.parametrize("owner", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]], ids=["images", "patients"])
@pytest.mark.parametrize(("gain", "constant"), [(1.0, 0.0), (1e6, 3e3), (1e12, 3e6), (1e-12, 1e3), (1e30, 1e10)])
@pytest.mark.parametrize(("name", "normalisation", "size"), NETWORKS[:2])
def test_one_unit_more_changes_the_sum_by_no_more_than_the_clip(
    name: str, normalisation: str, size: int, gain: float, constant: float, owner: list[int], make_model: MakeModel
) -> None:
    """The attack: weights with which the norms of Gram matrices cancelled, so that a unit added 17,150 times the clipping norm."""
    model, (images, labels) = amplifying(make_model(name, normalisation, size), gain, constant), batch(size)
    images = images + constant
    assert sensitivity(model, images, labels, owner, 0.01) <= 1.0


class Convolutions(nn.Module):
    """Two of them with a normalisation between, whose gradients sum to zero over positions, on maps with a constant part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.after, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.after(self.last(self.norm(self.first(images))))
        return self.head(maps.square().mean((2, 3)))  # type: ignore[no-any-return]


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
scales = st.sampled_from([0.0, 1e-38, 1e-30, 1e-6, 1.0, 3e3, 1e6, 1e15, 3e38])


@settings(max_examples=60, deadline=None)
@given(gain=scales, offset=scales, pixel=numbers, constant=scales, half=st.sampled_from([None, torch.bfloat16, torch.float16]), clip=scales)
def test_whatever_weights_images_and_precision(
    gain: float, offset: float, pixel: float, constant: float, half: torch.dtype | None, clip: float
) -> None:
    torch.manual_seed(0)
    model, (images, labels) = Convolutions(), batch(8)
    clip = min(max(clip, 1e-6), 1e6)  # the settings' bounds
    with torch.no_grad():
        model.norm.weight.mul_(gain)
        model.norm.bias.add_(offset)
        images = images * gain + constant
        images[-1, 0, 3, 3] = pixel

    def losses(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels, reduction="none")

    assert sensitivity(model, images, labels, list(range(6)), clip, losses) <= 1.0


@settings(max_examples=100, deadline=None)
@given(
    entries=st.lists(numbers, min_size=1, max_size=6),
    repeat=st.sampled_from([1, 7, 20_000]),
    clip=st.floats(1e-6, 1e6),
    others=st.integers(0, 9),
)
def test_whatever_a_units_vector_is(entries: list[float], repeat: int, clip: float, others: int) -> None:
    """Vectors longer than a part of the norm's sum, beside others, with entries from subnormal to infinite."""
    summed = ClippedSum(nn.Linear(1, 1), lambda images, labels: images, clip)
    vector = torch.tensor(entries, dtype=torch.float32).repeat(repeat)
    company = torch.full((others, len(vector)), clip)
    with_it, without = (torch.zeros(len(vector), dtype=torch.float64) for _ in range(2))
    summed.add_units(with_it, torch.cat([company, vector[None]]))
    summed.add_units(without, company.clone())
    difference = (with_it - without).numpy()
    assert (difference == np.rint(difference)).all() and (with_it.numpy() == np.rint(with_it.numpy())).all()
    square = sum(int(value) ** 2 for value in difference)
    assert square * summed.step**2 <= clip**2


def test_sums_are_exact_whatever_the_order_and_the_number(make_model: MakeModel) -> None:
    """3,000 units whose entries are as large as they can be: float32 alone would round from the ninth on."""
    summed = ClippedSum(nn.Linear(2, 1), lambda images, labels: images, 1.9999)
    units = torch.eye(3).repeat(1000, 1) * 5.0
    units[::7] *= -0.3
    forward, backward, apart = (summed.zeros() for _ in range(3))
    summed.add_units(forward, units.clone())
    summed.add_units(backward, units.flip(0))
    for unit in units.split(1):
        summed.add_units(apart, unit.clone())
    assert torch.equal(forward, backward) and torch.equal(forward, apart)
    alone = []
    for unit in (units[0], units[1], units[2], units[7], units[14], units[21]):
        each = summed.zeros()
        summed.add_units(each, unit[None].clone())
        alone.append(each)
    negative, positive = [(units[at::3, at] < 0).sum() for at in range(3)], [(units[at::3, at] > 0).sum() for at in range(3)]
    sizes = {float(value) for each in alone for value in each if value}
    large, small = max(sizes), min(sizes)
    assert len(sizes) == 2 and forward.tolist() == [int(p) * large + int(n) * small for p, n in zip(positive, negative, strict=True)]


def test_entries_are_truncated_never_rounded_up() -> None:
    summed = ClippedSum(nn.Linear(1, 1), lambda images, labels: images, 1.0)
    vector = torch.linspace(-0.01, 0.01, 1001)
    total = torch.zeros(1001, dtype=torch.float64)
    summed.add_units(total, vector[None].clone())
    assert torch.equal(total, (vector.double() / summed.step).trunc())


@pytest.mark.parametrize("count", [60_000, 65_536])
def test_norms_are_not_those_that_float32_sums_too_small(count: int) -> None:
    """Equal entries that are a whole number of steps but for a hair: any understatement lifts all of them by a step."""
    exceeded = 0
    for value in np.random.Generator(np.random.Philox(3)).uniform(0.5, 2.0, 40):
        steps_each = 5000
        clip = steps_each * 2.0**-20 * count**0.5 * (1 - 1e-8)
        summed = ClippedSum(nn.Linear(1, 1), lambda images, labels: images, clip)
        clip *= summed.step / 2.0**-20
        summed = ClippedSum(nn.Linear(1, 1), lambda images, labels: images, clip)
        vector = torch.full((1, count), float(value))
        exceeded += float(torch.linalg.vector_norm(vector)) < float(vector.double().norm()) * (1 - 2e-8)
        total = torch.zeros(count, dtype=torch.float64)
        summed.add_units(total, vector.clone())
        assert exact_norm(total) * summed.step <= clip
    assert exceeded, "float32 understates none of these norms, so this shows nothing"


def test_the_roundings_of_norm_factor_and_product_lift_no_entry_by_a_step() -> None:
    """Three equal entries that are a whole number of steps but for a hair, so that rounding to nearest would reach it."""
    draws = np.random.Generator(np.random.Philox(4))
    for whole, value in zip(draws.integers(620_000, 1_200_000, 200).tolist(), draws.uniform(1.5, 3.0, 200).tolist(), strict=True):
        clip = float(np.nextafter(whole * 3**0.5 * 2.0**-20, 0.0))
        summed = ClippedSum(nn.Linear(1, 1), lambda images, labels: images, clip)
        total = torch.zeros(3, dtype=torch.float64)
        summed.add_units(total, torch.full((1, 3), value))
        assert sum(int(entry) ** 2 for entry in total) * Fraction(summed.step) ** 2 <= Fraction(clip) ** 2
        assert int(total[0]) == whole - 1 - (whole >= 2**20)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "normalisation", "size"), NETWORKS)
def test_a_units_gradient_is_the_same_in_any_company_and_place(
    name: str, normalisation: str, size: int, precision: torch.dtype, make_model: MakeModel
) -> None:
    """Bit for bit, in a batch of one size: the kernels' rounding must not tell who else was drawn."""
    model, (images, labels) = make_model(name, normalisation, size), batch(size, 12)

    def losses(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            return F.cross_entropy(model(images).float(), labels, reduction="none")

    def gradient(order: list[int]) -> Tensor:
        """Of image 0, where the order has it."""
        summed = ClippedSum(model, losses, 1.0)
        vectors = summed._image_gradients(images[order], labels[order], torch.ones(len(order)))
        return vectors[order.index(0)].clone()

    for count in (5,) if name == "resnet18" else (3, 4, 6, 8):
        first = gradient(list(range(count)))
        for order in (
            [*range(count - 1, -1, -1)],
            [7, 0, *range(10, 8, -1), *range(1, count - 3)][:count],
            [*range(1, count), 0],
            [0] * count,
        ):
            assert torch.equal(gradient(order), first)


def is_contiguous(values: Tensor) -> bool:
    """By its strides: ``values.is_contiguous()`` is also true of channels-last maps of one channel, which kernels take for such."""
    return values.stride() == torch.empty(values.shape).stride()


@pytest.mark.parametrize(("name", "normalisation", "size"), NETWORKS)
def test_layers_see_contiguous_maps_and_weights_whatever_the_layout_before(
    name: str, normalisation: str, size: int, make_model: MakeModel
) -> None:
    """The attack: pictures of one channel are contiguous and channels-last at once, which sent training past what was checked."""
    model, (pictures, labels) = make_model(name, normalisation, size).to(memory_format=torch.channels_last), batch(size)
    assert pictures.is_contiguous() and not is_contiguous(pictures)
    summed = ClippedSum(model, losses_of(model), 1.0)
    seen: list[bool] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.register_forward_hook(lambda layer, maps, out: seen.extend(map(is_contiguous, (*maps, out, layer.weight))))
    vectors = summed._image_gradients(pictures, labels, torch.ones(6)).clone()
    assert seen and all(seen)
    copied = torch.empty(pictures.shape).copy_(pictures)
    assert torch.equal(summed._image_gradients(copied, labels, torch.ones(6)), vectors)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("normalisation", "size", "images"), [("group", 32, 3), ("group", 33, 5), ("group", 64, 3), ("weight", 33, 3)])
def test_large_maps_too_on_any_number_of_threads(
    normalisation: str, size: int, images: int, count: int, threads: Callable[[int], None], make_model: MakeModel
) -> None:
    """The attack: from maps of 1,024 pixels on, GroupNorm's kernel for channels-last maps divides an image between threads."""
    threads(count)
    model, (pictures, labels) = make_model("convnet", normalisation, size), batch(size, images)
    ClippedSum(model, losses_of(model), 1.0).check_places(pictures, labels)


def test_a_unit_more_changes_no_other_whatever_a_network_makes_of_rounding(threads: Callable[[int], None], make_model: MakeModel) -> None:
    """The same attack to its end: weights that amplify rounding made one unit more count up to eight times."""
    threads(2)
    model = make_model("convnet", "group", 64)
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    second = [module for module in model.modules() if isinstance(module, nn.Conv2d)][1]
    with torch.no_grad():
        norms[0].weight.fill_(1e-3)
        norms[0].bias.fill_(1000.0)
        middle = second.weight[:, :, 1, 1].abs() + 0.1
        second.weight.zero_()
        second.weight[:, :, 1, 1] = middle
    pictures, labels = batch(64, 13)
    summed = ClippedSum(model, losses_of(model), 1.0)

    def total(units: range) -> Tensor:
        total = summed.zeros()
        for each in micro_batches([np.array([unit]) for unit in units], 3):
            summed.add_to(total, pictures[each.index], labels[each.index], torch.from_numpy(each.owner), each.units)
        return total

    assert exact_norm(total(range(13)) - total(range(1, 13))) * summed.step <= 1.0


def test_kernels_that_know_places_are_refused() -> None:
    class ByPlace(Convolutions):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * (1 + 1e-6 * torch.arange(len(images))[:, None, None, None]))

    model, (images, labels) = ByPlace(), batch(8)
    with pytest.raises(PrivacyError, match=r"depends on its place in a batch of 6 images.* set resources\.threads = 1"):
        ClippedSum(model, losses_of(model), 1.0).check_places(images, labels)


def test_in_half_precision_too(make_model: MakeModel) -> None:
    model, (images, labels), clip = make_model(), batch(16), 0.01

    def losses(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels, reduction="none")

    whole = steps(model, images[:1], labels[:1], [0], clip, losses)
    assert 0.99 * clip < norm(whole) * ClippedSum(model, losses, clip).step <= clip


def test_a_unit_whose_gradient_is_not_finite_adds_nothing(make_model: MakeModel) -> None:
    model, (images, labels) = make_model(), batch(16)
    spoilt = images.clone(memory_format=torch.preserve_format)
    spoilt[[1, 4]] = float("nan")
    good = [0, 6, 1, 2, 6, 3]
    summed = ClippedSum(model, losses_of(model), 1.0)
    kept = summed.zeros()
    summed.add_to(kept, images, labels, torch.tensor(good), 4)
    assert torch.equal(steps(model, spoilt, labels, list(range(6)), 1.0), kept)
    nothing = steps(model, torch.full_like(images, float("inf")), labels, list(range(6)), 1.0)
    assert norm(nothing) == 0.0


def test_it_leaves_no_hook_and_no_gradient(make_model: MakeModel) -> None:
    model, (images, labels) = make_model(), batch(16)
    total(model, images, labels, list(range(6)), 1.0)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_used_twice_is_refused() -> None:
    """Its gradients would be those of its last use, and the memory of a layer without use would hold an earlier batch's."""
    layer, head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 3)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = layer, head

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(images)).mean((2, 3)))  # type: ignore[no-any-return]

    images, labels = batch(8)
    with pytest.raises(AssertionError, match="used twice"):
        steps(Twice(), images, labels, list(range(6)), 1.0)


def test_batchnorm_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match=r"BatchNorm2d mixes the images .* set model\.normalisation = weight or group$"):
        ClippedSum(make_model(normalisation="batch"), lambda images, labels: images, 1.0)
