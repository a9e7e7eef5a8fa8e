"""Server optimisers: how the mean update moves the global model (Reddi et al., ICLR 2021, algorithm 2).

The mean update plays the part of a negative gradient. State is a dict of float32 vectors, so that a
checkpoint holds it as it is.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from primia.config.settings import FederationSettings
from primia.federation.update import Vector

State = dict[str, Vector]


class ServerOptimizer(Protocol):
    """Takes the global parameters and the mean update, gives the next parameters."""

    state: State

    def step(self, parameters: Vector, update: Vector) -> Vector:
        """A new vector; ``parameters`` stays as it is, ``update`` may be overwritten."""
        ...


class FedAvg:
    """w + lr * update; with lr = 1 the weighted mean of the sites' models (McMahan et al., AISTATS 2017)."""

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self.state: State = {}

    def step(self, parameters: Vector, update: Vector) -> Vector:
        """One step."""
        if self._learning_rate != 1.0:
            np.multiply(update, self._learning_rate, out=update)
        return np.add(parameters, update, out=update)


class FedAvgM:
    """Server momentum (Hsu et al., 2019): m = beta m + update; w + lr m."""

    def __init__(self, learning_rate: float, momentum: float) -> None:
        self._learning_rate = learning_rate
        self._momentum = momentum
        self.state: State = {}

    def step(self, parameters: Vector, update: Vector) -> Vector:
        """One step."""
        velocity: Vector = self._momentum * self.state.get("momentum", np.zeros_like(update)) + update
        self.state = {"momentum": velocity}
        return parameters + self._learning_rate * velocity


class FedAdaptive:
    """FedAdam and FedYogi: w + lr m / (sqrt(v) + eps), without bias correction, as in the paper.

    They differ in the second moment: Adam's decays towards update^2, Yogi's moves by at most
    (1 - beta2) update^2 a round. v starts at eps^2.
    """

    def __init__(self, learning_rate: float, beta1: float, beta2: float, epsilon: float, *, yogi: bool) -> None:
        self._learning_rate = learning_rate
        self._beta1, self._beta2 = beta1, beta2
        self._epsilon = epsilon
        self._yogi = yogi
        self.state: State = {}

    def step(self, parameters: Vector, update: Vector) -> Vector:
        """One step."""
        first = self.state.get("first_moment", np.zeros_like(update))
        first = np.add(first, (1 - self._beta1) * (update - first), dtype=np.float32)
        second = self._second(self.state.get("second_moment", np.full_like(update, self._epsilon**2)), update * update)
        self.state = {"first_moment": first, "second_moment": second}
        moved: Vector = parameters + self._learning_rate * first / (np.sqrt(second) + self._epsilon)
        return moved

    def _second(self, second: Vector, square: Vector) -> Vector:
        change: Vector = square - second if not self._yogi else square * np.sign(square - second)
        moved: Vector = second + (1 - self._beta2) * change
        return moved


def build_server_optimizer(settings: FederationSettings) -> ServerOptimizer:
    """The server optimiser that the settings name, without state."""
    name = settings.server_optimizer
    adaptive = name in ("fedadam", "fedyogi")
    learning_rate = settings.server_learning_rate or (0.01 if adaptive else 1.0)
    if adaptive:
        return FedAdaptive(learning_rate, settings.server_momentum, settings.server_beta2, settings.server_epsilon, yogi=name == "fedyogi")
    if name == "fedavgm":
        return FedAvgM(learning_rate, settings.server_momentum)
    return FedAvg(learning_rate)
