"""Population based training (Jaderberg et al., 2017), as Ray Tune does it, for members that take turns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from primia.data.randomness import stream
from primia.errors import ConfigError
from primia.search.records import Value
from primia.search.space.space import Space
from primia.search.tune.trainable import ASSIGNMENT

_CHANGES = 100  # tried for one that does not contradict itself


class Population(PopulationBasedTraining):
    """Ray's, but for two things that let members which take turns go round in circles (Ray 2.60).

    There, a member exchanges itself also for one that is no better; and of several that are equally far the first one has its turn again,
    even when it has just been set back to where the others wait.
    """

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(**options, custom_explore_fn=_Explorer(space), log_config=False)
        self._turns = count(1)
        self._last_turn: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See :class:`PopulationBasedTraining`."""
        self._last_turn[trial.trial_id] = next(self._turns)
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Of those that wait the one that is least far; of several the one whose turn is longest ago."""
        waiting = [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]

        def rank(trial: Trial) -> tuple[float, int]:
            return self._trial_state[trial].last_train_time, self._last_turn.get(trial.trial_id, 0)

        return min(waiting, key=rank, default=None)

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        lower, upper = super()._quantiles()
        score = {trial: float(self._trial_state[trial].last_score or 0.0) for trial in (*lower, *upper)}
        return [trial for trial in lower if score[trial] < min(score[better] for better in upper)], upper


class _Explorer:
    """Changes what a trial takes over from a better one."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._times = 0

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        self._times += 1
        generator = stream(self._space.base.search.seed, "explore", self._times)
        assignment = config[ASSIGNMENT]
        parameters = self._changed(assignment["parameters"], generator)
        return {**config, ASSIGNMENT: {**assignment, "parameters": parameters, "record": None}}

    def _changed(self, parameters: Mapping[str, Value], generator: np.random.Generator) -> Mapping[str, Value]:
        for _ in range(_CHANGES):
            with suppress(ConfigError):  # a point that contradicts itself
                changed = self._space.changed(parameters, generator)
                self._space.settings(changed)
                return changed
        return parameters
