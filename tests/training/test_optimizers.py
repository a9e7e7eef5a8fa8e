from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from primia.config.settings import TrainingSettings
from primia.training.optimizers import build_optimizer, load_state_arrays, state_arrays


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_is_that_of_the_papers(name: str) -> None:
    """First step by hand: SGD moves by lr (g + decay w); Adam by lr sign(g), AdamW after shrinking w by lr decay."""
    settings = TrainingSettings.model_validate({"optimizer": name, "learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.9})
    model = network()
    optimizer = build_optimizer(settings, model)
    before = next(model.parameters()).detach().clone()
    step(model, optimizer, 0)
    parameter = next(model.parameters())
    assert parameter.grad is not None
    gradient = parameter.grad + 0.5 * before
    expected = {
        "sgd": before - 0.1 * gradient,
        "adam": before - 0.1 * gradient.sign(),
        "adamw": before * (1 - 0.1 * 0.5) - 0.1 * parameter.grad.sign(),
    }
    torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-5)


def test_momentum_and_betas_are_those_of_the_settings() -> None:
    group = build_optimizer(TrainingSettings(optimizer="sgd", momentum=0.8), network()).param_groups[0]
    assert group["momentum"] == 0.8
    group = build_optimizer(TrainingSettings(optimizer="adam", beta1=0.5, beta2=0.99), network()).param_groups[0]
    assert group["betas"] == (0.5, 0.99)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_state_goes_through_arrays_and_back(name: str) -> None:
    settings = TrainingSettings.model_validate({"optimizer": name})
    straight, resumed = network(), network()
    first, before = build_optimizer(settings, straight), build_optimizer(settings, resumed)
    for number in range(3):
        step(straight, first, number)
        step(resumed, before, number)
    arrays = state_arrays(before)
    assert arrays and all(array.flags.c_contiguous for array in arrays.values())
    after = build_optimizer(settings, resumed)
    load_state_arrays(after, arrays)
    step(straight, first, 3)
    step(resumed, after, 3)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(np.array_equal(value, state_arrays(after)[key]) for key, value in state_arrays(first).items())


def test_state_arrays_are_copies() -> None:
    model = network()
    optimizer = build_optimizer(TrainingSettings(optimizer="adam"), model)
    step(model, optimizer, 0)
    arrays = state_arrays(optimizer)
    before = {name: array.copy() for name, array in arrays.items()}
    step(model, optimizer, 1)
    assert all(np.array_equal(arrays[name], before[name]) for name in before)


def test_plain_sgd_has_no_state() -> None:
    model = network()
    optimizer = build_optimizer(TrainingSettings(optimizer="sgd", momentum=0.0), model)
    step(model, optimizer, 0)
    assert state_arrays(optimizer) == {}
