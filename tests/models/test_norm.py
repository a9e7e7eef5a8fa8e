from __future__ import annotations

from torch import nn

from primia.models.norm import norm_layer


def test_group_normalisation_has_at_most_32_groups() -> None:
    few, many = norm_layer("group", 16), norm_layer("group", 64)
    assert isinstance(few, nn.GroupNorm) and few.num_groups == 16
    assert isinstance(many, nn.GroupNorm) and many.num_groups == 32


def test_batch_normalisation_keeps_statistics() -> None:
    layer = norm_layer("batch", 8)
    assert isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats
