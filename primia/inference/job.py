"""The Ray job of an encrypted inference: ``python -m primia.inference.job SPEC``, the spec as JSON.

Starts the three actors, watches over them, and prints events, one JSON document a line. It holds no share, no weight, no image.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import ray

from primia.errors import PrimiaError, ProtocolError
from primia.inference.actors import DataOwnerActor, DealerActor, ModelOwnerActor, start_actor
from primia.inference.service import Mode
from primia.inference.spec import InferenceSpec
from primia.mpc.messages import Role

_POLL_S = 0.5
_OWN_WORDS_S = 3.0


def main() -> None:
    """Run the spec that the command line names."""
    spec = InferenceSpec.model_validate_json(sys.argv[1])
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        _say("done", **run(spec))
    except PrimiaError as error:
        _say("error", kind=type(error).__name__, message=str(error))


def run(spec: InferenceSpec) -> dict[str, Any]:
    """Run an inference on the cluster that this process is attached to; what :meth:`DataOwnerActor.lead` returns, and the plan."""
    places = spec.inference
    actors = dict[Role, Any]()
    actors[Role.MODEL_OWNER] = start_actor(ModelOwnerActor, spec, places.model_owner)
    actors[Role.DATA_OWNER] = start_actor(DataOwnerActor, spec, places.data_owner)
    if spec.mode != Mode.CONSUME:
        actors[Role.DEALER] = start_actor(DealerActor, spec, places.dealer)
    watch = _Watch(actors)
    watch.all({role: actor.connect.remote({peer: actors[peer] for peer in actors if peer is not role}) for role, actor in actors.items()})
    plan = watch.all({Role.MODEL_OWNER: actors[Role.MODEL_OWNER].compile.remote()})[Role.MODEL_OWNER]
    _say("plan", plan=plan)
    calls: dict[Role, Any] = {role: actor.serve.remote() for role, actor in actors.items() if role is not Role.DATA_OWNER}
    calls[Role.DATA_OWNER] = actors[Role.DATA_OWNER].lead.remote()
    result: dict[str, Any] = watch.all(calls, progress=True)[Role.DATA_OWNER]
    return {**result, "plan": plan}


class _Watch:
    """Waits for calls of several actors, and says which party failed first."""

    def __init__(self, actors: dict[Role, Any]) -> None:
        self._actors = actors
        self._shown: Any = None

    def all(self, calls: dict[Role, Any], *, progress: bool = False) -> dict[Role, Any]:
        """What each call returns; the first failure ends the waiting."""
        roles = {reference: role for role, reference in calls.items()}
        waiting, results = list(roles), dict[Role, Any]()
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=_POLL_S)
            for reference in ready:
                try:
                    results[roles[reference]] = self._result(roles[reference], reference)
                except PrimiaError as error:
                    raise self._first_hand(error, {one: roles[one] for one in waiting}) from None
            if progress:
                self._show()
        return results

    def _result(self, role: Role, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except PrimiaError as error:
            raise (getattr(error, "cause", None) or error) from None
        except ray.exceptions.RayActorError:
            raise ProtocolError(
                f"the {role.label} died; the keys of batches under way are spent. Images that were done are kept: go on with --resume"
            ) from None

    def _first_hand(self, error: PrimiaError, others: dict[Any, Role]) -> PrimiaError:
        """The failing party's own error, which says by its kind what to do, where a peer's report of it came first."""
        if not others or not _is_report(error):
            return error
        for reference in ray.wait(list(others), num_returns=len(others), timeout=_OWN_WORDS_S)[0]:
            try:
                self._result(others[reference], reference)
            except PrimiaError as own:
                if not _is_report(own):
                    return own
        return error

    def _show(self) -> None:
        try:
            progress = ray.get(self._actors[Role.DATA_OWNER].progress.options(concurrency_group="control").remote(), timeout=_POLL_S)
        except (ray.exceptions.RayError, TimeoutError):
            return
        if progress != self._shown:
            self._shown = progress
            _say("progress", done=progress.done, total=progress.total)


def _is_report(error: PrimiaError) -> bool:
    """Whether a party only repeats what a peer told it, as :func:`primia.inference.service.deliver` words it."""
    return str(error).startswith(tuple(f"the {role.label} failed: " for role in Role))


def _say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
