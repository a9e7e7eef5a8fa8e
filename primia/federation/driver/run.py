"""The driver: from the sites' facts to the run folder, around the round loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import time

from primia.errors import RunError
from primia.federation.driver.checkpoint import Best, Checkpoints, RunState
from primia.federation.driver.hosts import Hosts, Stopped
from primia.federation.driver.listeners import Listener, LogListener, TensorBoardListener
from primia.federation.driver.outcome import Evaluated
from primia.federation.driver.prepare import Prepared, prepare_run
from primia.federation.driver.rounds import RoundLoop
from primia.federation.driver.summary import build_summary, versions
from primia.federation.events import Event, Notice, RunFinished
from primia.federation.run_spec import RunSetup
from primia.models.file import ModelCard, save_model
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity


def run_federation(setup: RunSetup, hosts: Hosts, ended_by: Callable[[], str] = str) -> Iterator[Event]:
    """Run a federation to its end, or on from its last whole checkpoint, and write the run folder.

    ``ended_by`` is asked before each round; once it gives a reason, the run ends as ``pruned``, without a test.

    Yields the events; the last one is :class:`RunFinished`. Errors are those of :meth:`RoundLoop.run` and :func:`prepare_run`.
    """
    folder = RunFolder(setup.folder)
    folder.check()
    checkpoints = Checkpoints(folder.checkpoints, setup.settings.run.keep_checkpoints)
    resumed, complaints = checkpoints.load_latest()
    try:
        prepared = prepare_run(setup, hosts, _driver_identity(setup))
    except Stopped:
        yield RunFinished("interrupted", setup.folder, {"rounds": resumed.model.round if resumed else 0})
        return
    state = resumed or RunState(prepared.initial)
    state.check_fit(prepared.flat.parameter_count, prepared.flat.buffer_count)
    with folder.logging() as logger:
        listeners: list[Listener] = [LogListener(logger), TensorBoardListener(folder.tensorboard, state.model.round)]
        try:
            for event in _run(setup, prepared, RoundLoop(setup, prepared, checkpoints, state, ended_by), complaints):
                for listener in listeners:
                    listener.hear(event)
                yield event
        except OSError as error:
            raise RunError(f"cannot write into {setup.folder}: {error.strerror or error}") from error
        except Exception as error:
            logger.error("%s", error)
            raise
        finally:
            for listener in listeners:
                listener.close()


def _run(setup: RunSetup, prepared: Prepared, loop: RoundLoop, complaints: list[str]) -> Iterator[Event]:
    skipped = [f"left out an image that cannot be read: {image}" for image in setup.skipped]
    yield from (Notice("warning", text) for text in (*setup.warnings, *skipped, *complaints))
    loop.add_seconds(data=setup.data_seconds, start=time() - setup.started_at - setup.data_seconds)
    try:
        yield from loop.run()
        best = loop.state.best
        if best is None:
            raise RunError(f"{setup.folder} has no validated model: federation.rounds is below the round that was resumed")
        begun = time()
        tested = None if loop.status == "pruned" else (yield from loop.evaluate("test", setup.testing_sites, best.model))
        loop.add_seconds(test=time() - begun)
        loop.ask_statements()
    except Stopped:
        yield RunFinished("interrupted", setup.folder, {"rounds": loop.state.model.round})
        return
    summary = _write_results(setup, prepared, loop, best, tested)
    yield RunFinished(loop.status, setup.folder, summary)


def _write_results(setup: RunSetup, prepared: Prepared, loop: RoundLoop, best: Best, tested: Evaluated | None) -> dict[str, object]:
    card = ModelCard(
        model=setup.settings.model,
        classes=setup.classes,
        channels=setup.channels,
        image_size=setup.image_size,
        normalisation=prepared.session.normalisation,
        synthetic=setup.synthetic,
        run=setup.folder.name,
        versions=versions(),
    )
    save_model(setup.folder, card, prepared.flat.state_dict(best.model.parameters, best.model.buffers))
    summary = build_summary(setup, prepared, loop.state, tested, loop.status)
    RunFolder(setup.folder).write_summary(summary)
    return summary


def _driver_identity(setup: RunSetup) -> Identity:
    """The keys of the federation's driver, kept beside the run folders, so that sites that have pinned them know them again."""
    name = setup.settings.federation.identity
    return Identity.load_or_create(name, (setup.identities or setup.folder.parent / ".identity") / f"{name}.json")
