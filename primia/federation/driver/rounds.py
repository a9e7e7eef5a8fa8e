"""The round loop: broadcast, local work, sum, server step, validation, checkpoint.

The loop knows no feature by name. What happens to an update is in the stages, what moves the model is the
server optimiser, who takes part and when to stop are policies, who listens gets events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter

from primia.errors import BudgetSpent, FederationError, ProtocolError, TrainingError
from primia.federation.driver.background import BackgroundWriter
from primia.federation.driver.checkpoint import Best, Checkpoints, Progress, RunState
from primia.federation.driver.collect import SiteEvaluated
from primia.federation.driver.outcome import Evaluated, Outcome, history_rows
from primia.federation.driver.prepare import Prepared
from primia.federation.driver.server_optimizer import build_server_optimizer
from primia.federation.encoding import next_range
from primia.federation.events import Event, Notice, RoundFinished, RoundStarted, RunStarted, SiteFinished, SiteLeftOut
from primia.federation.messages import RoundTask, SiteFailure, SiteReport
from primia.federation.policies import RunPolicies
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.stages import decode
from primia.federation.update import GlobalModel
from primia.runs.folder import RunFolder
from primia.runs.rounds import History, write_history
from primia.training.schedule import learning_rate

_FAILED_IN_SUM = (
    f"{Kind.NON_FINITE.value}; or a batch had one image and BatchNorm needs more: raise training.batch_size or set model.normalisation = "
    "group; or another error, which is in the site's own log"
)
"""Sites that fail in a masked sum do not say why: the kind would go with the number of their images."""


class RoundLoop:
    """Runs the rounds of one federation; iterate over :meth:`run`, then read :attr:`state` and :attr:`status`.

    ``status`` becomes ``complete``, ``stopped`` where a policy ended the run early, or ``pruned`` where ``ended_by``, which is asked before
    each round, gave a reason.
    """

    def __init__(
        self, setup: RunSetup, prepared: Prepared, checkpoints: Checkpoints, state: RunState, ended_by: Callable[[], str] = str
    ) -> None:
        self.state = state
        self.status = "complete"
        self._setup = setup
        self._prepared = prepared
        self._checkpoints = checkpoints
        self._federation = setup.settings.federation
        self._policies = RunPolicies.of(self._federation, setup.settings.run.seed)
        self._privacy = setup.settings.privacy
        self._stages = prepared.stages
        self._server = build_server_optimizer(self._federation)
        self._server.state = dict(state.server)
        self._folder = RunFolder(setup.folder)
        self._history = History.read(self._folder.history, state.model.round)
        self._ended_by = ended_by
        self._writer = BackgroundWriter()
        self._downloaded: dict[str, int] = {}

    def run(self) -> Iterator[Event]:
        """All rounds that are left.

        Raises:
            FederationError: fewer sites than the quorum delivered.
            BudgetSpent: no site has budget for the first round.
            TrainingError: a site's loss is not finite.
            RunError: a checkpoint cannot be written.
            Stopped: somebody asked to stop; the last finished round is on disk.
        """
        rounds = self._federation.rounds
        yield self._started()
        if self.state.model.round == 0:
            self._save()
        try:
            for round_ in range(self.state.model.round + 1, rounds + 1):
                if reason := self._ended_by():
                    self.status = "pruned"
                    yield Notice("info", f"ended after round {round_ - 1}: {reason}")
                    break
                # Before the round, not after: a run resumed from its last checkpoint must stop there too.
                stop = self._policies.stopping.decide(self.state.progress.validations_since_best)
                if not stop.go_on:
                    self.status = "stopped"
                    yield Notice("info", f"stopped after round {round_ - 1}: {stop.reason}")
                    break
                try:
                    yield from self._round(round_)
                except BudgetSpent as error:
                    yield from self._end(str(error))
                    break
                except ProtocolError as error:
                    raise FederationError(f"round {round_}: {error}; round {round_ - 1} is checkpointed, {self._resume_hint()}") from error
        finally:
            self._writer.flush()

    def evaluate(self, split: str, sites: Sequence[str], model: GlobalModel) -> Generator[Event, None, Evaluated | None]:
        """Metrics of a model over the named sites that answer; one that does not is left out, and said. None where nobody answers."""
        collected = self._prepared.collector.evaluate(self._prepared.session, split, sites, model)
        evaluated: dict[str, Mapping[str, object] | None] = {}
        try:
            yield from self._hear_evaluation(split, collected, model, evaluated)
        except ProtocolError as error:
            yield Notice("error", f"{split} of round {model.round} cannot be summed up: {error}")
        self._count_downloads(tuple(evaluated), model)
        if collected.total is None:
            return None
        told = {name: metrics for name in sites if (metrics := evaluated.get(name))}
        return Evaluated(collected.total.metrics(self._setup.classes), told, tuple(evaluated))

    def _hear_evaluation(
        self,
        split: str,
        collected: Iterable[SiteEvaluated | SiteFailure],
        model: GlobalModel,
        evaluated: dict[str, Mapping[str, object] | None],
    ) -> Iterator[Event]:
        for item in collected:
            if isinstance(item, SiteFailure) and item.counted:
                yield Notice("warning", f"{split} of round {model.round}, site {item.site}: lost after it was in the sum: {item.reason}")
            elif isinstance(item, SiteFailure):
                yield from self._leave_out(model.round, item, f"left out of {split}: {item.reason}")
            else:
                evaluated[item.site] = item.metrics

    def add_seconds(self, **phases: float) -> None:
        """Book wall time, in seconds, to phases of the run."""
        seconds = self.state.progress.seconds
        self._set_progress(seconds={**seconds, **{phase: seconds.get(phase, 0.0) + spent for phase, spent in phases.items()}})

    def _round(self, round_: int) -> Iterator[Event]:
        start = perf_counter()
        sites = self._policies.draw.draw(self._setup.training_sites, round_)
        yield RoundStarted(round_, sites)
        rate = learning_rate(self._setup.settings.training, (round_ - 1) / self._federation.rounds)
        outcome = Outcome(has_loss=not self._privacy.is_on, learning_rate=rate)
        yield from self._train(round_, sites, outcome)
        self._demand_quorum(round_, outcome, len(sites))
        self._step(outcome)
        trained = perf_counter()
        validation = (yield from self._validate()) if self._is_due(round_) else None
        is_best = validation is not None and self._remember_best(validation)
        self.add_seconds(training=trained - start, validation=perf_counter() - trained)
        seconds = perf_counter() - start
        self._record(round_, outcome, validation, seconds)
        self._save()
        yield RoundFinished(
            round=round_,
            rounds=self._federation.rounds,
            train_loss=outcome.loss,
            learning_rate=rate,
            seconds=seconds,
            validation=validation.pooled if validation else None,
            site_validation=validation.sites if validation else {},
            is_best=is_best,
        )

    def _train(self, round_: int, sites: Sequence[str], outcome: Outcome) -> Iterator[Event]:
        """Collect a round's work into ``outcome``.

        Raises:
            BudgetSpent: too few sites are left for a sum, since others have spent their privacy.
            TrainingError: a site's loss is not finite.
        """
        task = RoundTask(
            round=round_,
            rounds=self._federation.rounds,
            sites=tuple(sites),
            steps=self._prepared.single_steps,
            least=self._policies.quorum.needed(len(sites)),
            keep=self._rounds_to_keep(),
            range=self._range,
        )
        collected = self._prepared.collector.train(self._prepared.session, task, self.state.model)
        try:
            yield from self._hear(round_, collected, outcome)
        except ProtocolError as error:
            if spent := [failure for failure in outcome.failures if failure.spent]:
                raise BudgetSpent(f"round {round_}: {error}, others have spent their privacy budget: {spent[0].reason}") from None
            raise
        outcome.total = collected.total
        if outcome.total and outcome.total.failed:
            at = f"{outcome.total.failed} of {len(outcome.reports)} sites"
            raise TrainingError(f"round {round_}, {at}: {_FAILED_IN_SUM}; the last good checkpoint is kept in {self._folder.path}")
        if outcome.total and outcome.total.clipped:
            yield Notice(
                "warning",
                f"round {round_}: {outcome.total.clipped} changes of parameters were beyond {self._range:g} and are clipped to it",
            )
        self._count_downloads([report.site for report in outcome.reports], self.state.model)

    def _hear(self, round_: int, reports: Iterable[SiteReport | SiteFailure], outcome: Outcome) -> Iterator[Event]:
        begun = perf_counter()
        for item in reports:
            if isinstance(item, SiteReport):
                outcome.reports.append(item)
                outcome.seconds[item.site] = perf_counter() - begun
                yield SiteFinished(round_, item.site, item.loss, outcome.seconds[item.site])
            elif item.counted:
                yield Notice("warning", f"round {round_}, site {item.site}: lost after its update was in the sum: {item.reason}")
            else:
                outcome.failures.append(item)
                yield from self._leave_out(round_, item, item.reason)

    def _end(self, why: str) -> Iterator[Event]:
        """End the run for good where privacy is spent: what has been reached is the result.

        Raises:
            BudgetSpent: nothing has been reached.
        """
        last = self.state.model.round
        if not last:
            raise BudgetSpent(f"no round can be trained: {why}")
        self.status = "stopped"
        yield Notice("warning", f"stopped after round {last}: {why}")
        if self.state.best is None or (not self._privacy.chooses_model and self.state.best.model.round != last):
            self._remember_best((yield from self._validate()))
            self._save()

    def _step(self, outcome: Outcome) -> None:
        model, total = self.state.model, outcome.total
        if total is None:
            raise AssertionError("a quorum of at least one site delivered, so there is a sum")
        if self._prepared.private_sites:
            self._prepared.private_sites.charge(model.round + 1, 1)
        mean = decode(self._stages, total.update, model)
        self._set_progress(range=next_range(mean.parameters, self._range, total.clipped))
        moved = GlobalModel(model.round + 1, self._server.step(model.parameters, mean.parameters), mean.buffers)
        self.state = replace(self.state, model=moved, server=dict(self._server.state))

    def _validate(self) -> Generator[Event, None, Evaluated]:
        validation = yield from self.evaluate("validation", self._setup.selecting_sites, self.state.model)
        if validation is None:
            raise FederationError(f"round {self.state.model.round}: no site could validate; {self._resume_hint()}")
        return validation

    def _remember_best(self, validation: Evaluated) -> bool:
        """Keep the model where its MCC is above the best so far; whether it was.

        A validation that lacks a site is over other images, so it can neither beat the best nor count against it. Where private images may
        not choose, the last model is kept.
        """
        if not self._privacy.chooses_model:
            self.state = replace(self.state, best=Best(self.state.model, validation.mcc, validation.pooled, validation.sites))
            return self.state.model.round == self._federation.rounds
        if self.state.best and len(validation.answered) < len(self._setup.selecting_sites):
            return False
        is_best = self.state.best is None or validation.mcc > self.state.best.mcc
        best = Best(self.state.model, validation.mcc, validation.pooled, validation.sites) if is_best else self.state.best
        since = 0 if is_best else self.state.progress.validations_since_best + 1
        self.state = replace(self.state, best=best, progress=replace(self.state.progress, validations_since_best=since))
        return is_best

    def _demand_quorum(self, round_: int, outcome: Outcome, drawn: int) -> None:
        decision = self._policies.quorum.decide(len(outcome.reports), drawn)
        spent = [failure for failure in outcome.failures if failure.spent]
        if not decision.go_on and spent:
            raise BudgetSpent(f"round {round_}: {decision.reason}, others have spent their privacy budget: {spent[0].reason}")
        if not decision.go_on:
            raise FederationError(f"round {round_}: {decision.reason}; round {round_ - 1} is checkpointed, {self._resume_hint()}")

    def _resume_hint(self) -> str:
        return f"go on with: primia-ray train --resume {self._folder.path}"

    @property
    def _range(self) -> float:
        if self._privacy.unit == "site":
            return self._privacy.clip  # no parameter of a clipped update is larger, and rounding must stay below the clip's room
        return self.state.progress.range or self._setup.settings.secure_aggregation.range

    def _is_due(self, round_: int) -> bool:
        return round_ % self._federation.validate_every == 0 or round_ == self._federation.rounds

    def ask_statements(self) -> None:
        """Let each site say once more what it has spent: one that was lost after it had paid is not heard in a round."""
        statements = self._prepared.collector.statements(self._setup.training_sites)
        self._set_progress(privacy={**self.state.progress.privacy, **statements})

    def _rounds_to_keep(self) -> tuple[int, ...]:
        """Rounds whose site states a resume or the final test may ask for; one more than checkpoints, since those lag behind."""
        last = self.state.model.round
        recent = range(max(0, last - self._setup.settings.run.keep_checkpoints), last + 1)
        best = (self.state.best.model.round,) if self.state.best else ()
        return (*recent, *best)

    def _started(self) -> RunStarted:
        return RunStarted(
            folder=self._folder.path,
            training_sites=self._setup.training_sites,
            rounds=self._federation.rounds,
            done=self.state.model.round,
            parameters=self._prepared.flat.parameter_count,
            steps=self._prepared.steps,
        )

    def _leave_out(self, round_: int, failure: SiteFailure, reason: str) -> Iterator[Event]:
        """Note a site's failure, and tell of it; end the run where going on would not help."""
        fault = {"round": round_, "site": failure.site, "reason": reason}
        self._set_progress(faults=(*self.state.progress.faults, fault))
        yield SiteLeftOut(round_, failure.site, reason)
        if failure.fatal:
            raise TrainingError(f"round {round_}, site {failure.site}: {reason}; the last good checkpoint is kept in {self._folder.path}")

    def _count_downloads(self, sites: Sequence[str], model: GlobalModel) -> None:
        """A site downloads each global model once, whether it trains from it, validates it, or both."""
        new = [name for name in sites if self._downloaded.get(name) != model.round]
        self._downloaded |= dict.fromkeys(new, model.round)
        down = self.state.progress.down_bytes
        self._set_progress(down_bytes={**down, **{name: down.get(name, 0) + model.nbytes for name in new}})

    def _set_progress(self, **changes: object) -> None:
        progress: Progress = replace(self.state.progress, **changes)  # type: ignore[arg-type]
        self.state = replace(self.state, progress=progress)

    def _save(self) -> None:
        """Start to write checkpoint and history of the last round; its vectors do not change any more."""
        state, rows = self.state, self._history.table()

        def write() -> None:
            # The history first: a resume drops rows beyond its checkpoint, but could not make up for missing ones.
            write_history(rows, self._folder.history)
            self._checkpoints.write(state)

        self._writer.submit(write)

    def _record(self, round_: int, outcome: Outcome, validation: Evaluated | None, seconds: float) -> None:
        progress, reports = self.state.progress, outcome.reports
        up = {report.site: progress.up_bytes.get(report.site, 0) + report.upload_bytes for report in reports}
        privacy = {report.site: dict(report.privacy) for report in reports if report.privacy}
        fewest = min(progress.fewest or len(reports), len(reports))
        self._set_progress(up_bytes={**progress.up_bytes, **up}, privacy={**progress.privacy, **privacy}, fewest=fewest)
        self._history.add(history_rows(round_, outcome, validation, seconds, self.state.model.nbytes))
