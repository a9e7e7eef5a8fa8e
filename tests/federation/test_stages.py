from __future__ import annotations

import numpy as np
import torch
from torch import nn

from primia.config.settings import Settings
from primia.federation.encoding import UpdateEncoding, ring_step
from primia.federation.messages import Contribution
from primia.federation.private_updates import PrivateUpdates
from primia.federation.stages import build_stages, decode, encode
from primia.federation.update import GlobalModel, Update
from primia.models.flat import FlatSpec
from primia.privacy.noise import SecureGenerator


def tiny_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))


def mean_of(updates: list[Update], start: GlobalModel, spec: FlatSpec, weighting: str = "samples") -> Update:
    stages = build_stages(Settings.model_validate({"federation": {"weighting": weighting}}), spec, sites=3)
    total, *others = [encode(stages, update, start) for update in updates]
    for update in others:
        total += update
    return decode(stages, total, start)


def test_a_noised_sum_is_divided_by_all_sites_whoever_delivered() -> None:
    """Divided by those who did, the mean would change by more than the clip with one site more."""
    start = GlobalModel(0, np.zeros(4, dtype=np.float32), np.zeros(0, dtype=np.float32))
    driver = PrivateUpdates(1.0, 4, 0.0, SecureGenerator())
    total = Update(np.full(4, 3.0, dtype=np.float32), start.buffers, weight=3.0)
    assert decode((driver,), total, start).weight == 4.0


def test_mean_is_weighted_by_samples_or_uniform() -> None:
    spec = FlatSpec.of(tiny_model())
    zeros = np.zeros(spec.buffer_count, dtype=np.float32)
    start = GlobalModel(0, np.zeros(spec.parameter_count, dtype=np.float32), zeros)

    def updates() -> list[Update]:
        return [
            Update(np.full(spec.parameter_count, value, dtype=np.float32), zeros.copy(), weight) for value, weight in ((1, 10), (4, 30))
        ]

    assert np.allclose(mean_of(updates(), start, spec).parameters, (10 * 1 + 30 * 4) / 40)
    assert np.allclose(mean_of(updates(), start, spec, "uniform").parameters, 2.5)


def test_batchnorm_statistics_are_those_of_all_images_together() -> None:
    """Pooled mean and variance equal those of the concatenated activations, between-site term included."""
    generator = torch.Generator().manual_seed(0)
    sites = [torch.randn(200, 3, generator=generator) * scale + shift for scale, shift in ((1.0, 500.0), (3.0, 507.0), (0.5, 496.0))]
    spec = FlatSpec.of(tiny_model())
    start_buffers = np.zeros(spec.buffer_count, dtype=np.float32)
    start_buffers[spec.mean_mask] = 500.0
    start = GlobalModel(0, np.zeros(spec.parameter_count, dtype=np.float32), start_buffers)
    updates = []
    for activations in sites:
        buffers = np.zeros(spec.buffer_count, dtype=np.float32)
        buffers[spec.mean_mask] = activations.mean(0).numpy()
        buffers[spec.variance_mask] = activations.var(0, unbiased=False).numpy()
        updates.append(Update(np.zeros(spec.parameter_count, dtype=np.float32), buffers, len(activations)))
    pooled = torch.cat(sites).double()
    result = mean_of(updates, start, spec).buffers
    assert np.allclose(result[spec.mean_mask], pooled.mean(0).numpy(), atol=1e-3)
    assert np.allclose(result[spec.variance_mask], pooled.var(0, unbiased=False).numpy(), rtol=1e-4)
    averaged = np.mean([update.buffers[spec.variance_mask] for update in updates])
    assert averaged < 0.5 * result[spec.variance_mask].mean(), "the between-site term is most of the variance here"


def test_a_sum_takes_over_writable_vectors_and_copies_read_only_ones() -> None:
    first = np.ones(3, dtype=np.float32)
    first.flags.writeable = False
    total = Update(first, first, 1.0).owned()
    total += Update(np.full(3, 2, dtype=np.float32), np.full(3, 5, dtype=np.float32), 2.0)
    assert total.parameters.tolist() == [3, 3, 3] and total.buffers.tolist() == [6, 6, 6] and total.weight == 3.0
    assert first.tolist() == [1, 1, 1]


def test_a_clipped_update_leaves_masked_as_it_is() -> None:
    """Whatever the key of the stochastic rounding: on the grid there is nothing to round."""
    parameters, sites, clip = 200_000, 1000, 1.1
    encoding = UpdateEncoding(parameters, 0, float(sites), clip)
    start = GlobalModel(0, np.zeros(parameters, np.float32), np.zeros(0, np.float32))
    update = Update(np.full(parameters, 0.5, np.float32), np.zeros(0, np.float32), 1.0)
    clipped = PrivateUpdates(clip, sites).encode(update, start)
    assert 0.9 * clip < np.linalg.norm(clipped.parameters.astype(np.float64)) <= clip
    for key in (bytes(16), bytes(range(16))):
        vector = encoding.encode(Contribution(clipped, 1, 1, 0.0), key)
        assert np.array_equal(vector.narrow.view(np.int32) * ring_step(clip, sites), clipped.parameters)
