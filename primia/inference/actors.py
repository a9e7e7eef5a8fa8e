"""The three parties as Ray actors, each with its own memory: thin shells around the services.

Messages go from actor to actor; the driver holds none. An actor never restarts and Ray repeats no call, since one-time keys must
not be used again.
"""

from __future__ import annotations

import base64
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import ray
import torch

from primia.errors import PrimiaError, ProtocolError
from primia.inference.keystore import KeyStore
from primia.inference.lead import Inference, infer_images, prepare_keys
from primia.inference.mailbox import Mailbox
from primia.inference.model import compile_for_keys, compile_run, plan_report
from primia.inference.output import output_files
from primia.inference.service import DataOwnerService, DealerService, Mode, ModelOwnerService, deliver, options_of
from primia.inference.spec import InferenceSpec
from primia.mpc.data_owner import DataOwner
from primia.mpc.dealer import Dealer
from primia.mpc.dpf import backend
from primia.mpc.messages import Kind, Message, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.workers import Workers

_UNDER_WAY = 4
"""Messages to one peer that are not taken yet, before a sender waits."""


class PartyActor:
    """One party. Peers call :meth:`deliver`, each in a concurrency group of its own name, on one thread."""

    role: Role

    def __init__(self, spec: InferenceSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.options = options_of(spec.inference)
        self.mailbox = Mailbox(self.options.key_bytes)
        self.workers = Workers(spec.threads)
        self.aes = backend()
        self._early: dict[Role, dict[int, Message]] = {peer: {} for peer in Role}
        self._due = dict.fromkeys(Role, 0)

    def connect(self, peers: Mapping[Role, Any]) -> None:
        """Learn how to reach the other two."""
        self.outbox = Outbox(self.role, peers)

    def deliver(self, sender: Role, number: int, message: Message) -> None:
        """Take a peer's message of that number, and pass on what is due: Ray promises no order to actors of several threads."""
        early = self._early[sender]
        early[number] = message
        while self._due[sender] in early:
            deliver(self.mailbox, sender, early.pop(self._due[sender]))
            self._due[sender] += 1


class Outbox:
    """Sends to the other actors, waiting while one of them is too far behind."""

    def __init__(self, role: Role, peers: Mapping[Role, Any]) -> None:
        self._role = role
        self._peers = peers
        self._under_way: dict[Role, deque[Any]] = {peer: deque() for peer in peers}
        self._numbers = {peer: count() for peer in peers}
        self._last: tuple[Message | None, Any] = (None, None)

    def send(self, to: Role, message: Message) -> None:
        """Hand a message to an actor.

        Raises:
            ProtocolError: the actor is gone.
        """
        # The dealer says the same to both parties: it is put into the object store once.
        last, reference = self._last
        if last is not message:
            reference = ray.put(message) if message.kind is Kind.STAGE_KEYS else message
            self._last = (message, reference)
        queue = self._under_way[to]
        method = self._peers[to].deliver.options(concurrency_group=self._role.name.lower())
        queue.append(method.remote(self._role, next(self._numbers[to]), reference))
        while len(queue) > _UNDER_WAY:
            try:
                ray.get(queue.popleft())
            except IndexError:  # another thread of this actor has taken it
                continue
            except PrimiaError as error:
                raise (getattr(error, "cause", None) or error) from None
            except ray.exceptions.RayActorError:
                raise ProtocolError(f"the {to.label} died; images that were done are kept: go on with --resume") from None


class DealerActor(PartyActor):
    """The crypto provider: sees neither images nor weights."""

    role = Role.DEALER

    def serve(self) -> None:
        """Deal until no more is wanted."""
        DealerService(Dealer(self.workers, self.aes), self.mailbox, self.outbox.send, self.options).serve()


class ModelOwnerActor(PartyActor):
    """Reads the run folder; sees no image and no prediction."""

    role = Role.MODEL_OWNER

    def compile(self) -> dict[str, Any]:
        """Compile the run's model, and say what it will cost."""
        spec, self._store = self.spec, None
        folder = spec.keys / "model-owner" if spec.keys else None
        if spec.mode is Mode.CONSUME and folder:
            self._store = KeyStore.open(folder)
            self._compiled = compile_for_keys(spec.run, self._store)
        else:
            self._compiled = compile_run(spec.run, spec.calibration, spec.inference, self.workers)
        if spec.mode is Mode.PREPARE and folder:
            self._store = KeyStore.create(folder, self._compiled.program, self._compiled.fingerprint)
        return plan_report(self._compiled, self.aes)

    def serve(self) -> None:
        """Serve until no more is wanted."""
        compiled = self._compiled
        owner = ModelOwner(compiled.program, compiled.weights, compiled.biases, self.workers, self.aes)
        ModelOwnerService(owner, self.mailbox, self.outbox.send, self.options, self._store).serve()


@dataclass(frozen=True)
class Progress:
    """Images done, and in all."""

    done: int = 0
    total: int = 0


class DataOwnerActor(PartyActor):
    """Reads the images and writes the predictions; sees no weight."""

    role = Role.DATA_OWNER

    def __init__(self, spec: InferenceSpec) -> None:
        super().__init__(spec)
        self._progress = Progress()

    def progress(self) -> Progress:
        """How far :meth:`lead` is; may be asked while it runs."""
        return self._progress

    def lead(self) -> dict[str, Any]:
        """Get keys or predictions, write them, and return a summary without predictions of single images."""
        begun, spec = perf_counter(), self.spec
        keys = spec.keys / "data-owner" if spec.keys else None
        service = DataOwnerService(DataOwner(self.workers, self.aes), self.mailbox, self.outbox.send, self.options, keys)
        if spec.mode == Mode.PREPARE:
            with service.telling((Role.MODEL_OWNER, Role.DEALER)):
                service.start(spec.mode)
                prepare_keys(service, spec.preprocess, self._report)
                service.finish()
            return {"summary": {"keys": spec.preprocess, "seconds": perf_counter() - begun}, "files": {}}
        with _output(spec) as output:
            wanted = Inference(spec.data, output, spec.journal, spec.resume, str(spec.run))
            predictions = infer_images(service, spec.mode, wanted, self._report, begun)
            return {"summary": predictions.summary(), "files": _contents(output) if spec.fetch else {}}

    def _report(self, done: int, total: int) -> None:
        self._progress = Progress(done, total)


@contextmanager
def _output(spec: InferenceSpec) -> Iterator[Path]:
    """Where to write: what is fetched lies on this node for a moment only."""
    if not spec.fetch:
        yield spec.output
        return
    with tempfile.TemporaryDirectory(prefix="primia-") as folder:
        yield Path(folder) / spec.output.name


def _contents(output: Path) -> dict[str, str]:
    """The files that were written, by name, in base64."""
    return {file.name: base64.b64encode(file.read_bytes()).decode() for file in output_files(output)}


def start_actor(kind: type[PartyActor], spec: InferenceSpec, place: str) -> Any:
    """An actor on the node that ``place`` names: a custom resource, or label=value; empty: any node."""
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
    if "=" in place:
        label, _, value = place.partition("=")
        options["label_selector"] = {label: value}
    elif place:
        options["resources"] = {place: 0.001}
    groups = {role.name.lower(): 1 for role in Role} | {"control": 2}
    remote: Any = ray.remote
    return remote(concurrency_groups=groups)(kind).options(**options).remote(spec)
