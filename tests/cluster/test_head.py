from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from primia.cluster import head
from primia.cluster.head import LocalHead, local_head
from primia.errors import ClusterError


class Child:
    """Stands in for Ray's head: a shell script in a group of its own."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.folder = Path()
        self.options: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, folder: Path, options: list[str], token: dict[str, str]) -> subprocess.Popen[bytes]:
        self.folder, self.options = folder, options
        (folder / "r").mkdir()
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", self.script], cwd=folder, stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True
            )
        return self.process


def child(monkeypatch: pytest.MonkeyPatch, script: str) -> Child:
    made = Child(script)
    monkeypatch.setattr(head, "_start", made.start)
    monkeypatch.setattr(head, "_answers", lambda url, token: True)
    return made


def assert_gone(made: Child) -> None:
    assert made.process is not None
    assert made.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(made.process.pid, 0)
    assert not made.folder.exists()


def test_it_yields_the_address_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child(monkeypatch, "echo 10.0.0.1:5 > r/ray_current_cluster; exec sleep 60")
    with local_head(cpus=2, gpus=0) as running:
        assert isinstance(running, LocalHead)
        assert running.address == "10.0.0.1:5"
        assert running.dashboard_url.startswith("http://127.0.0.1:")
        assert running.environment["RAY_AUTH_MODE"] == "token"
        assert Path(running.environment["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777 == 0o600
        assert made.folder.stat().st_mode & 0o777 == 0o700
    assert {"--num-cpus=2", "--num-gpus=0", f"--object-store-memory={256 * 2**20}"} <= set(made.options)
    assert_gone(made)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_leaves_nothing_when_the_body_fails(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    made = child(monkeypatch, "echo 10.0.0.1:5 > r/ray_current_cluster; exec sleep 60")
    with pytest.raises(error), local_head():
        raise error
    assert_gone(made)


def test_a_head_that_does_not_start_is_said_with_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child(monkeypatch, "echo first; echo; echo no port left; exit 3")
    with pytest.raises(ClusterError) as caught, local_head():
        pass
    assert str(caught.value) == "cannot start Ray on this machine: it ended with code 3; its last lines: first | no port left"
    assert_gone(made)


def test_a_head_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child(monkeypatch, "echo waiting; exec sleep 60")
    monkeypatch.setattr(head, "_START_S", 0.3)
    with pytest.raises(ClusterError, match=r"no job API within 0 s; its last lines: waiting"), local_head():
        pass
    assert_gone(made)


def test_a_head_that_ignores_the_request_to_end_is_killed_with_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child(monkeypatch, "trap '' TERM; echo 10.0.0.1:5 > r/ray_current_cluster; sleep 60 & sleep 60; wait")
    monkeypatch.setattr(head, "_END_S", 0.3)
    monkeypatch.setattr(head, "_STRAGGLERS_S", 0.1)
    begun = time.monotonic()
    with local_head():
        pass
    assert time.monotonic() - begun < 10
    assert made.process is not None and made.process.returncode == -9


def test_free_ports_differ() -> None:
    ports = head._free_ports(4)
    assert len(set(ports)) == 4 and all(1024 <= port <= 65535 for port in ports)


def test_the_folder_is_short_enough_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/scratch/of/a/user/with/a/very/long/name")
    assert head._short_folder() == "/tmp"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    assert head._short_folder() is None
