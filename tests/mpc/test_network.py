from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from primia.config.settings import ModelSettings
from primia.errors import ModelError
from primia.models.registry import build_model
from primia.mpc.network import Network, RealLayer, read_network
from primia.mpc.program import Local, Shape


def settled(model: nn.Module, shape: Shape) -> tuple[nn.Module, Tensor]:
    """``model`` with statistics and factors that mean something, some of them negative; and images."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for tensor, low in ((module.weight, -1.0), (module.bias, -0.5), (module.running_mean, -0.3), (module.running_var, 0.5)):
                tensor.data.uniform_(low, low + 1.8, generator=generator)
    return model.eval(), torch.randn(3, *shape, generator=generator)


@torch.no_grad()
def read_and_compared(model: nn.Module, shape: Shape) -> Network:
    model, images = settled(model, shape)
    network, expected = read_network(model, shape), model(images.clone())
    found = network.run(images)
    assert expected.abs().max() > 0.01 and len(expected) == len(found)
    assert torch.allclose(found.flatten(1), expected.flatten(1), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    names = Counter(step.output for step in network.steps)
    assert max(names.values()) == 1, f"wires of one name: {names}"
    return network


def layers_of(network: Network) -> list[RealLayer]:
    return [step for step in network.steps if isinstance(step, RealLayer)]


class Graph(nn.Module):
    """Named layers and a function of them."""

    def __init__(self, forward: Callable[[Graph, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def conv(inputs: int, outputs: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


HEAD = {"pool": nn.AdaptiveAvgPool2d(1), "head": nn.Linear(4, 3)}


def headed(m: Graph, x: Tensor) -> Tensor:
    logits: Tensor = m.head(torch.flatten(m.pool(x), 1))
    return logits


# --- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize(
    ("name", "size", "layers", "maxima"), [("convnet", 28, 5, 2), ("convnet", 40, 5, 3), ("resnet18", 32, 18, 1), ("resnet18", 45, 18, 1)]
)
def test_shipped_networks(name: str, size: int, layers: int, maxima: int, pooling: str) -> None:
    model = build_model(ModelSettings(name=name, pooling=pooling), classes=3, channels=2, image_size=size, seed=0)
    found = layers_of(read_and_compared(model, (2, size, size)))
    assert len(found) == layers
    assert sum(layer.pool is not None for layer in found) == (maxima if pooling == "max" else 0)


def test_a_network_like_vgg() -> None:
    model = nn.Sequential(
        *block(3, 6),
        *block(6, 6),
        nn.MaxPool2d(2),
        *block(6, 8),
        nn.MaxPool2d(2, 2),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 4),
    )
    network = read_and_compared(model, (3, 16, 16))
    assert [(layer.name, layer.pool is not None) for layer in layers_of(network)] == [
        ("0", False), ("3", True), ("7", True), ("13", False), ("16", False),
    ]  # fmt: skip


class UNet(nn.Module):
    """Two levels, each convolution followed by ReLU; the skip is taken before pooling."""

    def __init__(self, pool: Callable[[], nn.Module], up: Callable[[int, int], nn.Module], *, shared: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.bottom = block(2, 4), block(4, 6), block(6, 8)
        self.pool = pool()
        self.other_pool = self.pool if shared else pool()
        self.up = up(8, 8)
        self.other_up = self.up if shared else up(5, 5)
        self.third, self.fourth = block(8 + 6, 5), block(5 + 4, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        bottom = self.bottom(self.other_pool(second))
        third = self.third(torch.cat([self.up(bottom), second], 1))
        result: Tensor = self.head(self.fourth(torch.cat([self.other_up(third), first], dim=1)))
        return result


def turned(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, 2), nn.BatchNorm2d(outputs), nn.ReLU())


def larger(inputs: int, outputs: int) -> nn.Module:
    return nn.Upsample(scale_factor=2)


def average() -> nn.Module:
    return nn.AvgPool2d(2)


@pytest.mark.parametrize("up", [larger, turned])
def test_a_network_like_u_net(up: Callable[[int, int], nn.Module]) -> None:
    network = read_and_compared(UNet(average, up), (2, 12, 8))
    kinds = Counter(step.kind for step in network.steps if isinstance(step, Local))
    assert kinds == {"sum": 2, "concatenate": 2, "repeat" if up is larger else "spread": 2}


def test_pools_and_upsampling_may_be_one_module_for_all_levels() -> None:
    read_and_compared(UNet(average, larger, shared=True), (2, 12, 8))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (3, 1, 0), ((3, 2), (2, 3), (0, 1))])
def test_transposed_convolutions(kernel: int, stride: int, padding: int) -> None:
    read_and_compared(nn.Sequential(nn.ConvTranspose2d(2, 3, kernel, stride, padding), nn.ReLU(), nn.Conv2d(3, 2, 1)), (2, 5, 4))


def test_maxima_move_before_relu_where_its_output_is_used_once() -> None:
    network = read_and_compared(nn.Sequential(*block(1, 4), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 1)), (1, 9, 8))
    assert layers_of(network)[0].pool is not None and len(network.steps) == 2


@pytest.mark.parametrize("order", [[nn.ReLU(), nn.AvgPool2d(2)], [nn.AvgPool2d(2), nn.ReLU()], [nn.ReLU(), nn.AvgPool2d(3, 2, 1)]])
def test_averages_before_and_after_relu(order: list[nn.Module]) -> None:
    read_and_compared(nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), *order, conv(4, 2)), (1, 8, 6))


def test_an_average_over_padding_before_relu_is_refused() -> None:
    """The bias does not reach the padding."""
    with pytest.raises(ModelError, match="2: an average with padding before ReLU"):
        read_network(nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.AvgPool2d(3, 2, 1), nn.ReLU(), conv(4, 2)), (1, 8, 6))


def test_an_average_after_maxima_and_a_batch_norm_after_an_average() -> None:
    read_and_compared(nn.Sequential(conv(1, 4), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), conv(4, 2)), (1, 8, 8))
    read_and_compared(nn.Sequential(conv(1, 4), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)), (1, 8, 8))


def test_batch_norm_after_relu_of_a_skipped_wire() -> None:
    """Each channel of a bare wire has a factor of its own: it becomes a convolution."""
    model = Graph(
        lambda m, x: headed(m, torch.relu(m.norm(m.second(y := m.first(x)) + y))),
        first=block(1, 4), second=conv(4, 4), norm=nn.BatchNorm2d(4), **HEAD,
    )  # fmt: skip
    read_and_compared(model, (1, 6, 6))


def test_batch_norm_without_factors() -> None:
    read_and_compared(nn.Sequential(conv(1, 4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), conv(4, 2)), (1, 6, 6))


def pre_activation(blocks: int) -> nn.Module:
    def forward(m: Graph, x: Tensor) -> Tensor:
        x = m.stem(x)
        for number in range(blocks):
            x = x + getattr(m, f"conv{number}")(F.relu(getattr(m, f"norm{number}")(x)))
        return headed(m, F.relu(x))

    layers = {f"conv{number}": conv(4, 4) for number in range(blocks)} | {f"norm{number}": nn.BatchNorm2d(4) for number in range(blocks)}
    return Graph(forward, stem=conv(2, 4), **layers, **HEAD)


@pytest.mark.parametrize("blocks", [1, 3])
def test_residual_blocks_whose_activation_comes_first(blocks: int) -> None:
    read_and_compared(pre_activation(blocks), (2, 6, 6))


def test_a_residual_sum_after_an_average() -> None:
    """The wire stands for nine times its values."""

    model = Graph(
        lambda m, x: headed(m, torch.relu(m.second(y := m.small(m.first(x))) + y)),
        first=block(2, 4), small=nn.AvgPool2d(3, 2, 1), second=conv(4, 4), **HEAD,
    )  # fmt: skip
    read_and_compared(model, (2, 8, 8))


def test_dropout_of_what_is_used_twice() -> None:
    """Dropout is the identity, and what stands behind it may still be used elsewhere."""
    model = Graph(
        lambda m, x: headed(m, torch.relu(m.second(m.small(m.drop(y := m.first(x)))) + m.third(y))),
        first=block(2, 4), small=nn.AvgPool2d(2), drop=nn.Dropout(), second=conv(4, 4), third=conv(4, 4, stride=2), **HEAD,
    )  # fmt: skip
    read_and_compared(model, (2, 8, 8))


def test_a_layer_that_is_used_twice() -> None:
    model = Graph(
        lambda m, x: headed(m, torch.relu(m.again(torch.relu(m.again(y := m.first(x)))) + y)), first=block(2, 4), again=conv(4, 4), **HEAD
    )  # fmt: skip
    read_and_compared(model, (2, 6, 6))


def test_reading_changes_no_weights() -> None:
    model, _ = settled(nn.Sequential(*block(1, 4), nn.AvgPool2d(2), conv(4, 2)), (1, 4, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    read_network(model, (1, 4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_standardised_weights_are_convolutions_like_any(name: str) -> None:
    model = build_model(ModelSettings(name=name, normalisation="weight"), classes=3, channels=3, image_size=32, seed=0)
    read_and_compared(model, (3, 32, 32))


# --- what is refused ---------------------------------------------------------------------------------------------


def refused(model: nn.Module, shape: Shape = (1, 8, 8)) -> str:
    with pytest.raises(ModelError) as error:
        read_network(model, shape)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "layer"), [("convnet", "features.1"), ("resnet18", "bn1")])
def test_group_norm_is_refused_with_the_alternative(name: str, layer: str) -> None:
    model = build_model(ModelSettings(name=name, normalisation="group"), classes=3, channels=3, image_size=32, seed=0)
    message = refused(model, (3, 32, 32))
    assert message.startswith(f"{layer} (GroupNorm)") and "model.normalisation = batch" in message


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "Conv2d): groups"),
        (nn.Conv2d(4, 4, 3, dilation=2), "Conv2d): groups, dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "other than zero padding"),
        (nn.Conv2d(4, 4, 3, padding="same"), "padding by numbers"),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), "ConvTranspose2d): groups"),
        (nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1), "output padding"),
        (nn.GELU(), "GELU): not supported"),
        (nn.Sigmoid(), "Sigmoid): not supported"),
        (nn.Softmax(1), "Softmax): not supported"),
        (nn.LeakyReLU(), "LeakyReLU): not supported"),
        (nn.MaxPool2d(2, dilation=2), "MaxPool2d): dilation"),
        (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d): dilation, ceil_mode"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "AvgPool2d): only averages"),
        (nn.AvgPool2d(2, divisor_override=3), "AvgPool2d): only averages"),
        (nn.AdaptiveAvgPool2d(3), "AdaptiveAvgPool2d): (8, 8) does not divide into (3, 3)"),
        (nn.AdaptiveAvgPool2d(16), "AdaptiveAvgPool2d): (8, 8) does not divide into (16, 16)"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "upsampling): only mode nearest"),
        (nn.Upsample(scale_factor=1.5), "upsampling): only mode nearest"),
        (nn.Upsample(size=(16, 16)), "upsampling): only mode nearest"),
        pytest.param(
            nn.Upsample(scale_factor=(2, 3)),
            "upsampling): only mode nearest",
        ),
        (nn.Linear(8, 4), "Linear): takes 8 numbers, not maps of (4, 8, 8)"),
        (nn.BatchNorm2d(4, track_running_stats=False), "BatchNorm2d): keeps no running statistics"),
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_refused_by_name(layer: nn.Module, told: str) -> None:
    model = nn.Sequential()
    for name, module in {"first": conv(1, 4), "relu": nn.ReLU(), "odd": layer, "last": conv(4, 2)}.items():
        model.add_module(name, module)
    message = refused(model)
    assert message.startswith("odd (") and told in message


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda m, x: m.last(m.max(y := m.first(x)) + m.third(y)), "max (MaxPool2d): encrypted inference takes maxima only next to"),
        (lambda m, x: m.last(torch.relu(m.second(m.first(x)) * 2.0)), "mul (mul): not supported"),
        (lambda m, x: m.last(torch.relu(m.second(m.first(x)) + m.third(m.first(x)))), "add (add): encrypted inference adds maps"),
        (lambda m, x: m.last(m.second(m.first(x))), "last: takes a sum that no ReLU follows"),
        (lambda m, x: m.last(m.max(m.second(m.first(x)))), "last: takes a sum that no ReLU follows"),
        (lambda m, x: m.last(m.max(m.max(m.first(x)))), "max (MaxPool2d): encrypted inference takes maxima only next to"),
        (lambda m, x: m.first(m.max(x)), "max (MaxPool2d): encrypted inference takes maxima only next to"),
        (lambda m, x: m.first(x), "must end with a linear layer or a convolution"),
        (lambda m, x: m.average(m.second(m.first(x))), "must end with a linear layer or a convolution"),
        (lambda m, x: m.last(torch.relu(m.first(x) + m.first(x))), "a layer without weights before ReLU"),
        (lambda m, x: m.last(torch.cat([m.first(x), m.average(m.first(x))], 1)), "cat (cat): encrypted inference joins"),
        (lambda m, x: m.last(m.first(x)).softmax(1), "softmax (softmax): not supported"),
        (lambda m, x: m.last(m.first(x) if x.sum() > 0 else x), "its forward must not branch on values"),
    ],
)  # fmt: skip
def test_what_a_forward_must_not_do_is_refused(forward: Callable[[Graph, Tensor], Tensor], told: str) -> None:
    layers = {"first": block(1, 4), "second": conv(4, 4), "third": conv(4, 4, stride=2), "last": conv(4, 2)}
    assert told in refused(Graph(forward, **layers, max=nn.MaxPool2d(2), average=nn.AvgPool2d(2)))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.last(torch.relu(m.second(m.first(x)) + 1.0)),
        lambda m, x: m.last(torch.relu(torch.add(m.second(y := m.first(x)), y, alpha=2))),
        lambda m, x: m.last(torch.relu(m.first(torch.cat(tensors=[x], dim=1)) * 2)),
        lambda m, x: (m.last(m.first(x)), x),
        lambda m, x: {"out": m.last(m.first(x))},
    ],
    ids=["constant", "alpha", "keyword", "tuple", "dictionary"],
)
def test_odd_ends_and_arguments_are_refused(forward: Callable[[Graph, Tensor], Tensor]) -> None:
    refused(Graph(forward, first=block(1, 4), second=conv(4, 4), last=conv(4, 2)))


def test_a_transposed_convolution_that_crops_is_refused() -> None:
    refused(nn.Sequential(nn.ConvTranspose2d(1, 3, 2, 2, padding=2), nn.ReLU(), nn.Conv2d(3, 2, 1)))


def test_rectifying_maxima_does_not_change_their_other_uses() -> None:
    """They are not rectified there, so there is nothing that encrypted inference could give."""

    def forward(m: Graph, x: Tensor) -> Tensor:
        largest = m.max(m.first(x))
        rectified = torch.relu(largest)
        return m.last(torch.relu(m.second(largest) + m.third(rectified)))  # type: ignore[no-any-return]

    assert "no ReLU follows" in refused(
        Graph(forward, first=conv(1, 4), max=nn.MaxPool2d(2), second=conv(4, 4), third=conv(4, 4), last=conv(4, 2))
    )


def test_names_of_layers_are_found_in_a_real_network(kit: SimpleNamespace) -> None:
    model = build_model(ModelSettings(name="resnet18"), classes=3, channels=3, image_size=32, seed=0)
    names = [layer.name for layer in layers_of(read_network(model, (3, 32, 32)))]
    assert len(set(names)) == len(names) and names[0] == "conv1" and names[-1] == "fc"
    assert {"layer1.0.conv1", "layer1.0.conv2", "layer4.1.conv2"} < set(names)
