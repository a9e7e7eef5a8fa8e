"""Runs the real command on a real Ray; every process that it starts carries a mark, so that none can be left behind unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SMALL = [
    "run.repeat=tests",  # so that runs of one seed compare
    "data.demo_images=60",
    "data.image_size=32",
    "training.batch_size=8",
    "training.optimizer=sgd",
    "training.learning_rate=0.05",
    "federation.rounds=6",
]


class Command:
    """One ``primia-ray`` command and all processes that come of it."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.mark = f"PRIMIA_TEST_MARK={uuid.uuid4().hex}"
        self.log = log
        name, _, value = self.mark.partition("=")
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "primia.cli.main", *arguments],
                env={**os.environ, name: value, "COLUMNS": "120"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def pids(self) -> list[int]:
        """Living processes with the mark."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def workers(self) -> list[int]:
        """Processes of the sites' actors."""
        return [pid for pid in self.pids() if b"ray::FederatedWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def actors(self, name: str) -> list[int]:
        """Processes of actors of this class."""
        return [pid for pid in self.pids() if f"ray::{name}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def wait_for(self, condition: Callable[[], object], what: str, limit_s: float = 90.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, f"the command ended before {what}:\n{self.text}"
            assert time.monotonic() < end, f"no {what} within {limit_s} s:\n{self.text}"
            time.sleep(0.02)

    def wait(self, limit_s: float = 120.0) -> int:
        return self.process.wait(limit_s)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill_everything(self) -> None:
        """SIGKILL to every process with the mark."""
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.poll()
            time.sleep(0.05)
        self.process.wait(10)

    def left_behind(self, limit_s: float = 15.0) -> list[int]:
        """Processes with the mark that do not go away by themselves."""
        end = time.monotonic() + limit_s
        while (pids := self.pids()) and time.monotonic() < end:
            time.sleep(0.1)
        return pids


@pytest.fixture
def primia_ray(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str) -> Command:
        command = Command(list(arguments), tmp_path / f"command-{len(started)}.log")
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill_everything()


@pytest.fixture
def train_arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a small demonstration run."""

    def arguments(name: str, *sets: str) -> list[str]:
        options = [item for setting in (*SMALL, *sets) for item in ("--set", setting)]
        return ["train", "--output", str(tmp_path / "runs"), "--name", name, *options]

    return arguments
