"""One party as a process of its own, connected to the other two by mutual TLS: for parties that share no cluster."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import perf_counter

from primia.config.settings import InferenceSettings
from primia.errors import ProtocolError
from primia.inference.certificates import party_name
from primia.inference.lead import Inference, infer_images
from primia.inference.links import Address, Identity, Limits, Link, connect, listen
from primia.inference.mailbox import Mailbox
from primia.inference.model import compile_run
from primia.inference.plain import Progress
from primia.inference.predictions import Predictions
from primia.inference.service import DataOwnerService, DealerService, Mode, ModelOwnerService, ServiceOptions, deliver, options_of
from primia.mpc.data_owner import DataOwner
from primia.mpc.dealer import Dealer
from primia.mpc.dpf import backend
from primia.mpc.messages import Message, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.workers import Workers

_LIMITS = Limits(message_bytes=2**32, idle_timeout_s=math.inf)  # the mailbox knows how long to wait for what


@dataclass(frozen=True)
class Place:
    """Who this party is, and in which session.

    Attributes:
        folder: of its certificate, its key and the CA's certificate, as ``primia-ray party certificates`` names them.
        session: a text that all three parties give; parties of different sessions refuse each other.
        wait_s: for the other two to be there.
    """

    folder: Path
    session: str
    wait_s: float = 600.0

    def link(self, role: Role, peer: Role, address: Address, make: Callable[..., Link]) -> Link:
        """A link of ``role`` to ``peer`` by :func:`listen` or :func:`connect`."""
        name = party_name(role)
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / "ca.pem")
        session = hashlib.sha256(self.session.encode()).digest()[:16]
        return make(address, identity, peer, self.wait_s, session=session, limits=_LIMITS)


def run_dealer(place: Place, settings: InferenceSettings, *, model_owner: Address, data_owner: Address) -> None:
    """Deal keys until the data owner wants no more."""
    ways = {Role.MODEL_OWNER: (model_owner, connect), Role.DATA_OWNER: (data_owner, connect)}
    with _post(Role.DEALER, place, ways, options_of(settings)) as (mailbox, send):
        DealerService(Dealer(_workers(), backend()), mailbox, send, options_of(settings)).serve()


def run_model_owner(run: Path, place: Place, settings: InferenceSettings, *, listen_at: Address, calibration: Path | None) -> None:
    """Compile the run's model and serve one inference; the data owner connects to ``listen_at``, the dealer to the port after it."""
    options, workers = options_of(settings), _workers()
    compiled = compile_run(run, calibration, settings, workers)
    ways = {Role.DATA_OWNER: (listen_at, listen), Role.DEALER: ((listen_at[0], listen_at[1] + 1), listen)}
    with _post(Role.MODEL_OWNER, place, ways, options) as (mailbox, send):
        owner = ModelOwner(compiled.program, compiled.weights, compiled.biases, workers, backend())
        ModelOwnerService(owner, mailbox, send, options).serve()


def run_data_owner(
    inference: Inference, place: Place, settings: InferenceSettings, *, model_owner: Address, listen_at: Address, report: Progress
) -> Predictions:
    """Get predictions of the images and write them; the dealer connects to ``listen_at``."""
    begun, options = perf_counter(), options_of(settings)
    ways = {Role.MODEL_OWNER: (model_owner, connect), Role.DEALER: (listen_at, listen)}
    with _post(Role.DATA_OWNER, place, ways, options) as (mailbox, send):
        service = DataOwnerService(DataOwner(_workers(), backend()), mailbox, send, options)
        return infer_images(service, Mode.STREAM, inference, report, begun)


@contextmanager
def _post(
    role: Role, place: Place, ways: Mapping[Role, tuple[Address, Callable[..., Link]]], options: ServiceOptions
) -> Iterator[tuple[Mailbox, Callable[[Role, Message], None]]]:
    """A mailbox that both links fill, and what sends over them."""
    with ExitStack() as closing, ThreadPoolExecutor(len(ways)) as pool:
        opened = {peer: pool.submit(place.link, role, peer, *way) for peer, way in ways.items()}
        links: dict[Role, Link] = {}
        for peer, future in opened.items():
            links[peer] = future.result()
            closing.callback(links[peer].close)
        mailbox = Mailbox(options.key_bytes)
        for link in links.values():
            Thread(target=_read, args=(link, mailbox), name=f"from the {link.peer.label}", daemon=True).start()
        yield mailbox, lambda to, message: links[to].send(message)


def _read(link: Link, mailbox: Mailbox) -> None:
    """Put what comes into the mailbox, until the peer leaves."""
    try:
        while True:
            deliver(mailbox, link.peer, link.receive())
    except ProtocolError as error:
        mailbox.fail(error, link.peer)


def _workers() -> Workers:
    return Workers(os.cpu_count() or 1)
