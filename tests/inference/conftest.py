"""A tiny compiled network, run folders that hold it, and three services in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from primia.config.settings import InferenceSettings, ModelSettings
from primia.data.statistics import Normalisation
from primia.errors import ProtocolError
from primia.inference.keystore import KeyStore
from primia.inference.mailbox import Mailbox
from primia.inference.model import compile_run
from primia.inference.service import DataOwnerService, DealerService, ModelOwnerService, ServiceOptions, deliver
from primia.models.file import ModelCard, load_model, save_model
from primia.models.flat import FlatSpec
from primia.models.registry import build_model
from primia.mpc.compiler import Compiled
from primia.mpc.data_owner import DataOwner
from primia.mpc.dealer import Dealer
from primia.mpc.dpf import backend
from primia.mpc.messages import Message, Role
from primia.mpc.model_owner import ModelOwner
from primia.mpc.workers import Workers

CLASSES = ("bacterial", "normal", "viral")
SIZE = 16
SOON_S = 30.0


def put_images(folder: Path, count: int, *, seed: int = 0) -> Path:
    """A flat folder of grey noise of different brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        noise = rng.integers(0, rng.integers(40, 256), (SIZE, SIZE), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    return folder


def make_run(folder: Path, *, seed: int = 1, classes: tuple[str, ...] = CLASSES) -> Path:
    """A run folder with a network whose statistics mean something, and settings; it has no images."""
    folder.mkdir(parents=True)
    settings = ModelSettings()
    model = build_model(settings, classes=len(classes), channels=1, image_size=SIZE, seed=seed).train()
    with torch.no_grad():
        model(torch.randn(32, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    flat = FlatSpec.of(model)
    card = ModelCard(settings, classes, 1, SIZE, Normalisation((0.4,), (0.3,)), synthetic=True, run=folder.name, versions={})
    save_model(folder, card, flat.state_dict(flat.parameters(model), flat.buffers(model)))
    (folder / "config.ini").write_text(f"[data]\nsource = folder\npath = {folder / 'nowhere'}\n")
    return folder


@dataclass
class Office:
    """Three services in one process that put messages into each other's mailboxes, and the threads that serve."""

    compiled: Compiled
    options: ServiceOptions
    keys: Path | None = None
    intercept: Callable[[Role, Role, Message], Message | None] = lambda sender, to, message: message
    serving: dict[Role, Future[Any]] = field(default_factory=dict)
    said: list[tuple[Role, Role, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        workers, aes = Workers(1), backend("auto")
        compiled, options = self.compiled, self.options
        self.mailboxes = {role: Mailbox(options.key_bytes) for role in Role}
        self.pool = ThreadPoolExecutor(4, "office")
        store = KeyStore.create(self.keys / "model-owner", compiled.program, compiled.fingerprint) if self.keys else None
        owner = ModelOwner(compiled.program, compiled.weights, compiled.biases, workers, aes)
        self.model_owner = ModelOwnerService(owner, *self._post(Role.MODEL_OWNER), options, store)
        self.dealer = DealerService(Dealer(workers, aes), *self._post(Role.DEALER), options)
        data_keys = self.keys / "data-owner" if self.keys else None
        self.data_owner = DataOwnerService(DataOwner(workers, aes), *self._post(Role.DATA_OWNER), options, data_keys)

    def serve(self, *roles: Role) -> None:
        """Let these parties serve, each in a thread."""
        services = {Role.MODEL_OWNER: self.model_owner, Role.DEALER: self.dealer}
        self.serving |= {role: self.pool.submit(services[role].serve) for role in roles}

    def ended(self, role: Role) -> Any:
        """What a serving party returns or raises, soon."""
        return self.serving[role].result(SOON_S)

    def _post(self, role: Role) -> tuple[Mailbox, Callable[[Role, Message], None]]:
        return self.mailboxes[role], partial(self._send, role)

    def _send(self, sender: Role, to: Role, message: Message) -> None:
        self.said.append((sender, to, message))
        if (passed := self.intercept(sender, to, message)) is not None:
            with suppress(ProtocolError):  # who has failed takes nothing more, and says so itself
                deliver(self.mailboxes[to], sender, passed)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The network of ``make_run``."""
    folder = tmp_path_factory.mktemp("compiled")
    run, images = make_run(folder / "run"), put_images(folder / "calibration", 12, seed=9)
    return compile_run(run, images, InferenceSettings(), Workers(1))


@pytest.fixture
def office(compiled: Compiled) -> Iterator[Callable[..., Office]]:
    """Makes offices; at the end none of their threads may be left."""
    made: list[Office] = []
    before = set(threading.enumerate())

    def make(keys: Path | None = None, intercept: Any = None, **options: Any) -> Office:
        more = {"intercept": intercept} if intercept else {}
        made.append(Office(compiled, ServiceOptions(**{"timeout_s": SOON_S} | options), keys, **more))
        return made[-1]

    yield make
    for each in made:
        each.pool.shutdown(wait=False)
        each.data_owner.close()
    threads = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith(("keys", "online", "office"))]
    for thread in threads:
        thread.join(10 * SOON_S)  # a thread that waits for a message gives up after SOON_S, and may have work to end then
    assert not [thread.name for thread in threads if thread.is_alive()]


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above: test modules cannot import them from here."""

    def plain(run: Path, images: torch.Tensor) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            outputs: np.ndarray[Any, Any] = load_model(run)[0](images).numpy()
        return outputs

    return SimpleNamespace(put_images=put_images, make_run=make_run, plain=plain, classes=CLASSES, size=SIZE, soon_s=SOON_S)
