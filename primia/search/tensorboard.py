"""The trials of a sweep in TensorBoard: what its HParams page shows, and the server for as long as a command runs."""

from __future__ import annotations

import http.client
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self

from primia.errors import ClusterError
from primia.files import keep_private, own_folder

OBJECTIVE = "objective/validation_mcc"

_START_S = 20.0
_ANSWER_S = 2.0
_END_S = 5.0
_POLL_S = 0.1


def write_trial(folder: Path, parameters: Mapping[str, bool | int | float | str], value: float | None) -> None:
    """Add to a trial's event files its searched settings and the objective; without a ``value`` the trial counts as failed.

    ``folder`` is the ``tensorboard`` folder of the trial's run. No list of all settings is written: TensorBoard makes its table of those
    of all trials, which need not be the same.
    """
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # type: ignore[import-untyped]
    from torch.utils.tensorboard import SummaryWriter  # here: torch takes a second that the command line does not need

    own_folder(folder)
    with SummaryWriter(str(folder)) as writer:
        # Named by its run, since trials of the same name, by default of the same settings, are shown as one.
        writer.file_writer.add_summary(hparams_pb(dict(parameters), trial_id=folder.parent.name))
        if value is not None:
            writer.add_scalar(OBJECTIVE, value, global_step=0)
        writer.file_writer.add_summary(_session_end(succeeded=value is not None))
    keep_private(folder)


def _session_end(*, succeeded: bool) -> object:
    # As ``tensorboard.plugins.hparams.summary`` does it, which cannot be imported without TensorFlow.
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, create_summary_metadata  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo  # type: ignore[import-untyped]

    end = SessionEndInfo(status=STATUS_SUCCESS if succeeded else STATUS_FAILURE)
    described = create_summary_metadata(HParamsPluginData(session_end_info=end))
    return Summary(value=[Summary.Value(tag=SESSION_END_INFO_TAG, metadata=described)])


def view_command(path: Path) -> str:
    """The command line that shows the runs below ``path``."""
    return f"tensorboard --logdir {shlex.quote(str(path))}"


class TensorBoard:
    """TensorBoard on 127.0.0.1 over all runs below a folder, from entering the context to leaving it."""

    url: str
    """Where it answers, inside the context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ClusterError: it ends at once, for example because it is not installed, or does not answer within 20 s.
        """
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/"
        with ExitStack() as stack:
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._process = _start(self._folder, port, self._log)
            stack.callback(_end, self._process)
            self._wait_until_up(port)
            self._running = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        self._running.close()

    def _wait_until_up(self, port: int) -> None:
        end = monotonic() + _START_S
        while not _answers(port):
            if (code := self._process.poll()) is not None:
                raise self._failed(f"it ended with code {code}")
            if monotonic() > end:
                raise self._failed(f"no answer within {_START_S:g} s")
            sleep(_POLL_S)

    def _failed(self, what: str) -> ClusterError:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        why = f" ({lines[-1].strip()})" if lines else ""
        return ClusterError(
            f"cannot start TensorBoard: {what}{why}; leave it out, and look at the runs later with: {view_command(self._folder)}"
        )


def _start(folder: Path, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # The Python loader: the fast one is a process of its own, which would outlive a child that had to be killed.
    options = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    command = [sys.executable, "-P", "-m", "tensorboard.main", *options]
    # A group of its own, so that Ctrl-C on the terminal reaches this process alone, which then ends the child.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
