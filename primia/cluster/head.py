"""A Ray head of one's own for the length of a command, with a job API.

Traps handled here (Ray 2.60): ``ray stop`` would end every Ray process of the machine, so the child alone is signalled;
a head outlives the process that started it, so the child watches its parent; several default ports are fixed
ones, so free ones are given; a head that is told to end waits up to 30 s for its work to drain.
"""

from __future__ import annotations

import atexit
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

from primia.cluster.jobs import find_token, last_lines, request
from primia.cluster.session import _QUIET, _own_token, _ray_folder, _short_folder, _store
from primia.errors import ClusterError
from primia.files import UMASK

_START_S = 60.0
_END_S = 20.0
_STRAGGLERS_S = 5.0  # of the group, once the head itself has gone: where nobody reaps them, they never seem to go
_LATECOMER_S = 1.0
_POLL_S = 0.1
_OTHER_CLUSTERS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_AUTH_TOKEN")


@dataclass(frozen=True)
class LocalHead:
    """A running head: where it listens, and what it takes to be let in."""

    dashboard_url: str
    """The job API, for :func:`primia.cluster.jobs.run_job`."""
    address: str
    """HOST:PORT for ``ray.init`` and :func:`primia.cluster.session.ray_session`."""
    environment: Mapping[str, str]
    """Variables with which a client or driver presents the token."""


@contextmanager
def local_head(*, store_bytes: int = 0, cpus: int | None = None, gpus: int | None = None) -> Iterator[LocalHead]:
    """Start a Ray cluster of one node with a job API on 127.0.0.1, and end it with all its processes, token and files.

    Several may run side by side. It ends on every way out, and also when this process is killed; what a job
    that still runs has started goes within a second of it.

    Args:
        store_bytes: object store wanted; it is kept between 256 MiB and 40 % of shared memory.
        cpus: processors that it offers; None: those of the machine.
        gpus: graphics cards that it offers; None: those of the machine.

    Raises:
        ClusterError: it did not start within 60 s; with the last lines that it printed.
    """
    with tempfile.TemporaryDirectory(prefix="primia-", dir=_short_folder(), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        token = _own_token(folder)
        port, dashboard, client, agent = _free_ports(4)
        options = [
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}",
            f"--object-store-memory={_store(store_bytes)}",
            *([f"--num-cpus={cpus}"] if cpus is not None else []),
            *([f"--num-gpus={gpus}"] if gpus is not None else []),
        ]
        process = _start(folder, options, token)
        try:
            url = f"http://127.0.0.1:{dashboard}"
            address = _wait_until_up(process, folder, url, token)
            yield LocalHead(dashboard_url=url, address=address, environment=token)
        finally:
            _end(process)


def _start(folder: Path, options: list[str], token: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The child leads a group of its own, so that Ctrl-C on the terminal reaches this process alone."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OTHER_CLUSTERS}
    command = [sys.executable, "-P", "-m", "primia.cluster.head", str(folder), "start", "--head", "--block", *options]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--temp-dir={_ray_folder(folder)}"]
    command += ["--no-monitor", "--disable-usage-stats", "--log-style=record", "--log-color=false"]
    with _log(folder).open("wb") as log:
        return subprocess.Popen(
            command,
            env={**inherited, **_QUIET, **token, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=UMASK,
        )


def _wait_until_up(process: subprocess.Popen[bytes], folder: Path, url: str, token: Mapping[str, str]) -> str:
    """Wait for the job API, and for the file that Ray writes last; return the address that is in it."""
    address, end = _ray_folder(folder) / "ray_current_cluster", monotonic() + _START_S
    while not (address.exists() and _answers(url, token)):
        if (code := process.poll()) is not None:
            raise ClusterError(f"cannot start Ray on this machine: it ended with code {code}; {_last_lines(folder)}")
        if monotonic() > end:
            raise ClusterError(f"cannot start Ray on this machine: no job API within {_START_S:.0f} s; {_last_lines(folder)}")
        sleep(_POLL_S)
    return address.read_text().strip()


def _answers(url: str, token: Mapping[str, str]) -> bool:
    try:
        return request(url, "/api/jobs/", find_token(token))[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and wait until its group is gone; kill what is left of the group in the end, or on a second Ctrl-C."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        deadline = monotonic() + _STRAGGLERS_S
        while _group_lives(process) and monotonic() < deadline:
            sleep(_POLL_S)
    finally:
        if _group_lives(process):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin:
            process.stdin.close()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except OSError:  # none left; on macOS also when only dead ones are left
        return False
    return True


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _last_lines(folder: Path) -> str:
    return last_lines(_log(folder).read_text(errors="replace").splitlines())


def _log(folder: Path) -> Path:
    return folder / "log"


def _serve(folder: str, arguments: list[str]) -> None:
    """The child: Ray's own command; it ends, and clears away, when the parent's end of stdin closes."""
    orphaned = Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def clear() -> None:
        if orphaned.is_set():
            # Ray passes over a process that it was just starting, and that one would write into the folder again.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
            sleep(_LATECOMER_S)
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clear)  # before Ray registers what ends its processes, so that it runs after that
    Thread(target=watch, daemon=True).start()
    from ray.scripts.scripts import cli

    cli.main(args=arguments, prog_name="ray")


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
