"""Run a command on a Ray cluster as a job, follow what it prints, and stop it when the caller stops.

Traps handled here (Ray 2.60): the client prefers ``RAY_ADDRESS`` to the address that it is given; an address where
nobody listens or a token that does not fit is reported late and at length; a proxy meant for the Internet is asked
for the cluster too; a log's last lines come seconds after the job has ended, or never when the connection drops.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import secrets
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from primia.cluster.session import set_environment
from primia.errors import ClusterError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

_CONNECT_S = 5.0
_POLL_S = 0.25
_POLL_LOG_S = 2.0
_PATIENCE_S = 10.0
_STOP_S = 30.0
_UNKNOWN_S = 2.0
_LAST_LINES = 5
_LINE_LENGTH = 200
_FAILED_REQUEST = (OSError, RuntimeError, ValueError)  # what the client raises: no connection, a refusal, no JSON
_CLIENT_LOCK = Lock()


def run_job(
    entrypoint: Sequence[str],
    *,
    address: str,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run ``entrypoint`` as a job of the cluster at ``address`` and return when it has succeeded.

    Only the command line travels: no working folder and no data are shipped. The package has to be installed on the
    cluster, and the paths in ``entrypoint`` (Python's own among them) are paths of the cluster's head node, best absolute ones.
    The job leaves its data in files, or hands them on through Ray itself.

    Args:
        entrypoint: the command and its arguments, quoted here for the shell that Ray starts.
        address: the job API of the cluster, ``http://HOST:8265`` or ``HOST:8265``; see :attr:`LocalHead.dashboard_url`.
        on_line: called in this thread with each line that the job prints (stdout and stderr, without the newline), in order
            and exactly once, some 1 to 2 s after it was printed and always before ``run_job`` returns or raises for the job's end.
        environment: where ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN_PATH`` are looked up; None: this process's environment.

    Raises:
        ClusterError: the cluster cannot be reached or refuses the token, or the job failed or was stopped by somebody else.
        KeyboardInterrupt, or what ``on_line`` raises: after the job was stopped.
    """
    url = job_api_url(address)
    variables = os.environ if environment is None else environment
    token = find_token(variables)
    check_job_api(url, token)
    with set_environment(_without_proxy(url)):
        client = _client(url, token)
        job, command = f"primia-{secrets.token_hex(6)}", shlex.join(entrypoint)
        output = JobOutput(f"Running entrypoint for job {job}: {command}\n", on_line)
        try:
            _submit(client, url, job, command)
            details = _follow(client, job, output)
        except BaseException:
            _stop(client, job)
            raise
    if details.status.value != "SUCCEEDED":
        raise _failure(job, url, details, output)


def job_api_url(address: str) -> str:
    """The job API's URL without a trailing slash, from a URL or HOST:PORT.

    Raises:
        ClusterError: ``address`` is neither.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or "://" in address)
    except ValueError:
        usable = False
    if not usable:
        raise ClusterError(
            f"{address!r} is not the address of a Ray job API; give http://HOST:PORT of the cluster's dashboard, such as http://10.0.0.1:8265"
        )
    return url.rstrip("/")


def find_token(environment: Mapping[str, str]) -> str | None:
    """The token that Ray would use under ``environment``; None where it would use none.

    Raises:
        ClusterError: ``RAY_AUTH_TOKEN_PATH`` names a file that cannot be read or is empty.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise ClusterError(f"cannot read the Ray token in {path}: {error}; mend RAY_AUTH_TOKEN_PATH") from None
        return None
    if named and not token:
        raise ClusterError(f"the Ray token file {path} is empty; mend RAY_AUTH_TOKEN_PATH")
    return token or None


def check_job_api(url: str, token: str | None) -> None:
    """Say within seconds that nobody listens at ``url``, that it is something else, or that it refuses the token.

    Raises:
        ClusterError: any of these.
    """
    try:
        status, body = request(url, "/api/version", token)
    except _Unreachable as error:
        raise ClusterError(f"cannot reach the Ray cluster at {url}: {error}; check the address, and that the cluster is up") from None
    except (OSError, http.client.HTTPException):
        status, body = 0, b""
    if status == 401:
        raise ClusterError(
            f"the Ray cluster at {url} asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with it"
        )
    if status == 403:
        raise ClusterError(f"the Ray cluster at {url} refuses the token; check that RAY_AUTH_TOKEN_PATH names the token of this cluster")
    if status != 200 or not _is_version(body):
        raise ClusterError(
            f"what answers at {url} is not a Ray job API; give the port of the cluster's dashboard, usually 8265, not that of Ray itself"
        )


class _Unreachable(OSError):
    """No connection came about."""


def request(url: str, path: str, token: str | None) -> tuple[int, bytes]:
    """Status and body of a GET, sent straight to that host: a token must not follow a redirect or go to a proxy.

    Raises:
        OSError, http.client.HTTPException: no connection, or no HTTP answer.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_CONNECT_S)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise _Unreachable(str(error)) from None
        connection.request("GET", parts.path + path, headers=_headers(token))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class JobOutput:
    """Turns the text of a job's log into lines, without what Ray writes ahead of the job's own output."""

    def __init__(self, header: str, on_line: Callable[[str], None]) -> None:
        self._header = header
        self._on_line = on_line
        self._started = False
        self._received = 0
        self._rest = ""
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    def feed(self, text: str) -> None:
        """Take the next piece of the log, cut anywhere."""
        self._received += len(text)
        self._rest += text
        if not self._started:
            _, found, after = self._rest.partition(self._header)
            if not found:
                return
            self._started, self._rest = True, after
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            self._hand_over(line)

    def complete(self, log: str) -> None:
        """Take what is missing from the whole log so far."""
        self.feed(log[self._received :])

    def end(self) -> None:
        """Hand over a last line that lacks its newline."""
        if self._started and self._rest:
            line, self._rest = self._rest, ""
            self._hand_over(line)

    def _hand_over(self, line: str) -> None:
        if line.strip():
            self.last.append(line)
        self._on_line(line)


class _Tail(Thread):
    """Receives a job's log in a thread of its own: Ray's client is asynchronous, and the caller may run a loop already."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        super().__init__(name="primia-job-log", daemon=True)
        self._client = client
        self._job = job
        self._pieces: SimpleQueue[str] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._receive())

    def run(self) -> None:
        # However the connection ends, the caller takes what is missing from the whole log.
        with suppress(Exception, asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _receive(self) -> None:
        async for piece in self._client.tail_job_logs(self._job):
            self._pieces.put(piece)

    def hand_to(self, output: JobOutput, wait_s: float) -> None:
        """Pass on what comes within ``wait_s``."""
        end = monotonic() + wait_s
        with suppress(Empty):
            while (left := end - monotonic()) > 0:
                output.feed(self._pieces.get(timeout=left))

    def close(self) -> None:
        with suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(_CONNECT_S)


def _client(url: str, token: str | None) -> JobSubmissionClient:
    """Ray's client for exactly this URL, with this token whatever Ray has cached in this process."""
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    # It tells of a connection that closed, which the one line of the error says better.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
    try:
        with _CLIENT_LOCK, set_environment({"RAY_API_SERVER_ADDRESS": url}):
            return JobSubmissionClient(url, headers=_headers(token))
    except (RayError, *_FAILED_REQUEST) as error:
        raise ClusterError(
            f"cannot use the Ray cluster at {url}: {_brief(error)}; check the version of Ray there, and RAY_AUTH_MODE here"
        ) from None


def _submit(client: JobSubmissionClient, url: str, job: str, command: str) -> None:
    try:
        client.submit_job(entrypoint=command, submission_id=job)
    except _FAILED_REQUEST as error:
        raise ClusterError(f"cannot submit a job to the Ray cluster at {url}: {_brief(error)}; look at its dashboard") from None


def _follow(client: JobSubmissionClient, job: str, output: JobOutput) -> JobDetails:
    """Hand over the job's lines until it has ended, whatever becomes of the connection that streams them."""
    tail = _Tail(client, job)
    tail.start()
    try:
        while True:
            streaming = tail.is_alive()
            tail.hand_to(output, _POLL_S if streaming else _POLL_LOG_S)
            details = _details(client, job)
            if details.status.is_terminal():
                break
            if not streaming:
                output.complete(_log(client, job))
    finally:
        tail.close()
    output.complete(_log(client, job))
    output.end()
    return details


def _details(client: JobSubmissionClient, job: str) -> JobDetails:
    return _patiently(lambda: client.get_job_info(job), client, job)


def _log(client: JobSubmissionClient, job: str) -> str:
    return _patiently(lambda: client.get_job_logs(job), client, job)


def _patiently(ask: Callable[[], T], client: JobSubmissionClient, job: str) -> T:
    """The answer, asked for again while a connection that dropped may come back."""
    end = monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except _FAILED_REQUEST as error:
            if monotonic() > end:
                raise ClusterError(f"lost the Ray cluster while it ran job {job}: {_brief(error)}; check that its head is up") from None
        sleep(_POLL_S)


def _stop(client: JobSubmissionClient, job: str) -> None:
    """Stop the job and wait until it has ended; failures are passed over, since the caller raises for a reason of its own."""
    begun = monotonic()
    end = begun + _UNKNOWN_S  # it may not have been submitted
    while monotonic() < end:
        with suppress(*_FAILED_REQUEST):
            if client.get_job_info(job).status.is_terminal():
                return
            end = begun + _STOP_S
            client.stop_job(job)  # asked for each time: one that has not begun yet cannot be stopped
        sleep(_POLL_S)


def _failure(job: str, url: str, details: JobDetails, output: JobOutput) -> ClusterError:
    if details.status.value == "STOPPED":
        what = "was stopped by somebody else"
    elif details.driver_exit_code is not None:
        code = details.driver_exit_code
        what = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    else:
        what = f"failed: {_brief(details.message or 'Ray gives no reason')}"
    return ClusterError(f"job {job} on the Ray cluster at {url} {what}; {last_lines(output.last)}")


def last_lines(lines: Sequence[str]) -> str:
    """The last lines of a log, within one line of an error message."""
    kept = [line.strip()[:_LINE_LENGTH] for line in lines if line.strip()][-_LAST_LINES:]
    return f"its last lines: {' | '.join(kept)}" if kept else "it printed nothing"


def _brief(error: Exception | str) -> str:
    """One line of what may be a traceback of many: the last, which names the error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:_LINE_LENGTH].rstrip(".")


def _is_version(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and "ray_version" in answer


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _without_proxy(url: str) -> dict[str, str]:
    """Variables that make Ray's client go to the host of ``url`` directly."""
    host = urlsplit(url).hostname or ""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    value = f"{before},{host}" if before else host
    return {"no_proxy": value, "NO_PROXY": value}
