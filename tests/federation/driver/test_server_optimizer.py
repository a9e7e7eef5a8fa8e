from __future__ import annotations

import numpy as np
import pytest

from primia.config.settings import FederationSettings
from primia.federation.driver.server_optimizer import build_server_optimizer
from primia.federation.update import Vector

W = np.array([1.0, -2.0], dtype=np.float32)
U1 = np.array([0.5, 0.25], dtype=np.float32)
U2 = np.array([-0.1, 0.3], dtype=np.float32)


def two_steps(**settings: object) -> tuple[Vector, Vector]:
    optimizer = build_server_optimizer(FederationSettings(**settings))  # type: ignore[arg-type]
    start = W.copy()
    first = optimizer.step(start, U1.copy())
    assert np.array_equal(start, W), "the global vector must stay as it is: checkpoints are written from it"
    return first, optimizer.step(first, U2.copy())


def test_fedavg_is_the_mean_model() -> None:
    first, second = two_steps()
    assert np.array_equal(first, W + U1)
    assert np.array_equal(second, W + U1 + U2)


def test_fedavg_with_a_step_size() -> None:
    first, _ = two_steps(server_learning_rate=0.5)
    assert np.allclose(first, W + 0.5 * U1)


def test_fedavgm_by_hand() -> None:
    first, second = two_steps(server_optimizer="fedavgm", server_momentum=0.9)
    assert np.allclose(first, W + U1)
    assert np.allclose(second, W + U1 + (0.9 * U1 + U2))


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_adaptive_by_hand(name: str) -> None:
    lr, b1, b2, eps = 0.1, 0.9, 0.99, 1e-3
    _, second = two_steps(server_optimizer=name, server_learning_rate=lr, server_momentum=b1, server_beta2=b2, server_epsilon=eps)
    w, m, v = W.astype(float), np.zeros(2), np.full(2, eps**2)
    for u in (U1.astype(float), U2.astype(float)):
        m = b1 * m + (1 - b1) * u
        v = v - (1 - b2) * u**2 * np.sign(v - u**2) if name == "fedyogi" else b2 * v + (1 - b2) * u**2
        w = w + lr * m / (np.sqrt(v) + eps)
    assert np.allclose(second, w, rtol=1e-5)


def test_state_carries_over_as_plain_vectors() -> None:
    settings = FederationSettings(server_optimizer="fedadam")
    whole = build_server_optimizer(settings)
    first = whole.step(W, U1.copy())
    resumed = build_server_optimizer(settings)
    resumed.state = {name: value.copy() for name, value in whole.state.items()}
    assert np.array_equal(whole.step(first, U2.copy()), resumed.step(first, U2.copy()))
