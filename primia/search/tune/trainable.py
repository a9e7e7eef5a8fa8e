"""What Ray Tune knows of a trial: a thin shell around :class:`~primia.search.trial_run.TrialRun`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from primia.search.plan import Assignment, SweepPlan
from primia.search.records import State, Told, TrialRecord

ASSIGNMENT = "assignment"
"""Key of a trial's configuration."""

PERCENT, MCC, TOLD = "percent", "mcc", "told"
"""Keys of what it tells."""

_LOWEST_MCC = -1.0
_ORIGIN = "origin.json"


def trial_name(number: int) -> str:
    """What a trial is called in Ray."""
    return f"trial-{number}"


class FederatedTrial(Trainable):
    """Drives one federation after the other in the same process; a step is what happens up to the next validation.

    Its configuration holds an :class:`Assignment` as a mapping. The trial's own number is in its name, and its replica follows from that,
    since population based training gives a trial the whole configuration of another.
    """

    def setup(self, config: Mapping[str, Any], *, plan: SweepPlan) -> None:  # type: ignore[override]  # by tune.with_parameters
        """Begin the first trial."""
        self._plan = plan
        self._begin(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Begin the next one; one that is not over was ended by the scheduler."""
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train until there is something to tell."""
        told: Told = next(self._told)
        mcc = _LOWEST_MCC if told.record.value is None else told.record.value
        return {PERCENT: told.percent, MCC: mcc, TOLD: told, "done": told.is_over}

    def cleanup(self) -> None:
        """End the last one."""
        self._end()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """For population based training: what another trial needs to go on from here."""
        folder, record = Path(checkpoint_dir), self._run.record
        self._run.save(folder)
        (folder / _ORIGIN).write_text(json.dumps({**asdict(record), "curve": [], "state": str(record.state)}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # a folder is what is given and saved
        """Go on from a checkpoint: this trial's own one, in the run folder that it is of, or another's."""
        fields = json.loads((Path(checkpoint_dir) / _ORIGIN).read_text())
        origin = TrialRecord(**{**fields, "state": State(fields["state"])})
        if origin.number == self._run.record.number:
            self._run.rejoin(origin)
        else:
            self._run.branch(origin, Path(checkpoint_dir))

    def _begin(self, config: Mapping[str, Any]) -> None:
        from primia.search.trial_run import TrialRun  # here: the process that runs the search needs no torch

        own: dict[str, int] = {"number": int(self.trial_name.rpartition("-")[2])}
        if self._plan.space.base.search.scheduler == "pbt":
            own["replica"] = (own["number"] - 1) % self._plan.replicas
        self._run = TrialRun(self._plan, Assignment(**{**config[ASSIGNMENT], **own}))
        self._told: Iterator[Told] = self._run.told()

    def _end(self) -> None:
        self._run.end(prune=self._plan.space.base.search.scheduler != "pbt")
