from __future__ import annotations

import torch
from torch import nn

from primia.models.norm import StandardisedConv2d, convolution, norm_layer


def test_group_normalisation_has_at_most_32_groups() -> None:
    few, many = norm_layer("group", 16), norm_layer("group", 64)
    assert isinstance(few, nn.GroupNorm) and few.num_groups == 16
    assert isinstance(many, nn.GroupNorm) and many.num_groups == 32


def test_batch_normalisation_keeps_statistics() -> None:
    layer = norm_layer("batch", 8)
    assert isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats


def test_standardised_weights_keep_the_variance_of_a_relu_network() -> None:
    """The gain of ReLU makes up for what it takes (Brock et al., 2021, section 3): unit variance in, unit variance out."""
    generator = torch.Generator().manual_seed(0)
    layer = convolution("weight", 64, 32, 3)
    assert isinstance(layer, StandardisedConv2d) and layer.bias is not None
    weight = layer.effective_weight()
    torch.testing.assert_close(weight.mean((1, 2, 3)), torch.zeros(32), atol=1e-6, rtol=0)
    with torch.no_grad():
        outputs = layer(torch.randn(16, 64, 20, 20, generator=generator).relu())
    assert 0.8 < float(outputs.var()) < 1.25


def test_the_gain_scales_each_output_channel() -> None:
    layer = convolution("weight", 3, 4, 3)
    with torch.no_grad():
        before = layer.effective_weight()  # type: ignore[operator]
        layer.gain[1] = 0  # type: ignore[index]
        after = layer.effective_weight()  # type: ignore[operator]
    assert not after[1].any() and torch.equal(after[0], before[0])
