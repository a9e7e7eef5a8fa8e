"""What of the job needs no Ray: its events, and whose failure it tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from primia.errors import DataError, KeyReuseError, ProtocolError
from primia.inference import job
from primia.inference.spec import InferenceSpec
from primia.mpc.messages import Role


class Died(Exception):
    pass


class Wrapped(KeyReuseError):
    """As Ray wraps what an actor raised."""

    cause = KeyReuseError("keys serve once")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Ray in which a reference is its result, and what is an exception is raised."""

    def get(reference: Any, timeout: float | None = None) -> Any:
        if isinstance(reference, Exception):
            raise reference
        return reference

    fake = SimpleNamespace(
        get=get,
        wait=lambda waiting, num_returns=1, timeout=0.0: (waiting[:num_returns], waiting[num_returns:]),
        init=lambda **options: None,
        exceptions=SimpleNamespace(RayActorError=Died, RayError=Died),
    )
    monkeypatch.setattr(job, "ray", fake)
    return fake


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_all_results_are_waited_for(ray: SimpleNamespace) -> None:
    assert job._Watch({}).all({Role.DEALER: "a", Role.DATA_OWNER: "b"}) == {Role.DEALER: "a", Role.DATA_OWNER: "b"}


def test_the_first_failure_ends_the_waiting(ray: SimpleNamespace) -> None:
    with pytest.raises(KeyReuseError, match=r"^keys serve once$"):
        job._Watch({}).all({Role.DATA_OWNER: Wrapped("wrapped, with a traceback\nof many lines"), Role.DEALER: Died("later")})


def test_the_failing_party_is_heard_before_those_that_report_it(ray: SimpleNamespace) -> None:
    report, own = ProtocolError("the data owner failed: no images here"), DataError("no images here")
    with pytest.raises(DataError, match=r"^no images here$"):
        job._Watch({}).all({Role.MODEL_OWNER: report, Role.DEALER: "dealt", Role.DATA_OWNER: own})
    with pytest.raises(ProtocolError, match=r"^the data owner failed: no images here$"):
        job._Watch({}).all({Role.MODEL_OWNER: report, Role.DATA_OWNER: "late"})


def test_a_party_that_died_is_named_with_the_way_on(ray: SimpleNamespace) -> None:
    with pytest.raises(ProtocolError, match=r"^the dealer died; the keys of batches under way are spent\..*--resume$"):
        job._Watch({}).all({Role.DEALER: Died("a long\nstory")})


def test_progress_is_told_when_it_changes(ray: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    steps = iter([SimpleNamespace(done=1, total=3), None, SimpleNamespace(done=3, total=3)])
    shown: list[Any] = []

    def progress() -> Any:
        shown.append(next(steps) or shown[-1])
        return shown[-1]

    actor = SimpleNamespace(progress=SimpleNamespace(options=lambda concurrency_group: SimpleNamespace(remote=progress)))
    job._Watch({Role.DATA_OWNER: actor}).all(dict(zip(Role, "abc", strict=True)), progress=True)
    assert events(capsys.readouterr().out) == [{"event": "progress", "done": done, "total": 3} for done in (1, 3)]


def test_progress_that_cannot_be_had_is_no_failure(ray: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    actor = SimpleNamespace(progress=SimpleNamespace(options=lambda concurrency_group: SimpleNamespace(remote=lambda: Died("x"))))
    job._Watch({Role.DATA_OWNER: actor}).all({Role.DEALER: "a"}, progress=True)
    assert capsys.readouterr().out == ""


def raising(error: Exception) -> Callable[[InferenceSpec], dict[str, Any]]:
    def run(spec: InferenceSpec) -> dict[str, Any]:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "event"),
    [
        (lambda spec: {"summary": {"threads": spec.threads}}, {"event": "done", "summary": {"threads": 3}}),
        (raising(KeyReuseError("once")), {"event": "error", "kind": "KeyReuseError", "message": "once"}),
    ],
)
def test_the_last_event_is_the_result_or_the_error(
    ray: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Callable[[InferenceSpec], dict[str, Any]],
    event: dict[str, Any],
) -> None:
    monkeypatch.setattr(job, "run", run)
    monkeypatch.setattr(sys, "argv", ["job", '{"run": "/r", "inference": {}, "threads": 3}'])
    job.main()
    assert events(capsys.readouterr().out) == [event]
