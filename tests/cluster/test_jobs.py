from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from primia.cluster import jobs
from primia.cluster.jobs import JobOutput, check_job_api, find_token, job_api_url, request, run_job
from primia.errors import ClusterError


class Api(http.server.BaseHTTPRequestHandler):
    """Answers as Ray's job API does: 401 without a token, 403 with another one."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        if self.path == "/moved/api/version":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/")
            self.end_headers()
            return
        status = 401 if given is None else 200 if given == "Bearer right" else 403
        body = json.dumps({"ray_version": "2.60.0"} if self.path == "/api/version" else []).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Cluster:
    """Stands in for Ray's client: a job whose log is there in full from the start, and whose connection may drop."""

    def __init__(self, log: str, statuses: list[str], *, streams: bool = True) -> None:
        self.log = log
        self.statuses = statuses
        self.streams = streams
        self.stops = 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        if not self.streams:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield self.log[:40]
        await asyncio.sleep(60)

    def get_job_info(self, job: str) -> SimpleNamespace:
        value = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if value == "LOST":
            raise RuntimeError("Request failed with status code 500: no.")
        status = SimpleNamespace(value=value, is_terminal=lambda: value in ("SUCCEEDED", "FAILED", "STOPPED"))
        return SimpleNamespace(status=status, driver_exit_code=None, message=None)

    def get_job_logs(self, job: str) -> str:
        return self.log

    def stop_job(self, job: str) -> None:
        self.stops += 1


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.hospital.example/cluster", "https://ray.hospital.example/cluster"),
        ("[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert job_api_url(address) == url


@pytest.mark.parametrize("address", ["auto", "", "head", "ray://head:10001", "head:port", "http://", "http://h:99999"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(ClusterError, match=r"is not the address of a Ray job API; give http://HOST:PORT"):
        job_api_url(address)


def test_the_token_is_that_which_ray_would_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token({}) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    named = tmp_path / "token"
    named.write_text("named\n")
    assert find_token({}) == "home"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(named)}) == "named"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "direct"}) == "direct"
    assert find_token({"RAY_AUTH_TOKEN": "direct", "RAY_AUTH_MODE": "disabled"}) is None
    with pytest.raises(ClusterError, match=r"cannot read the Ray token in .*missing.* mend RAY_AUTH_TOKEN_PATH"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing")})
    named.write_text("\n")
    with pytest.raises(ClusterError, match=r"token file .* is empty"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(named)})


def test_the_right_token_is_let_in_and_others_are_told_why_not(api: str) -> None:
    check_job_api(api, "right")
    with pytest.raises(ClusterError, match=rf"{api} asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"):
        check_job_api(api, None)
    with pytest.raises(ClusterError, match=rf"{api} refuses the token; check that RAY_AUTH_TOKEN_PATH"):
        run_job(["true"], address=api, on_line=print, environment={"RAY_AUTH_TOKEN": "wrong"})


def test_something_else_at_the_address_is_said(api: str) -> None:
    with pytest.raises(ClusterError, match=r"is not a Ray job API; give the port of the cluster's dashboard"):
        check_job_api(f"{api}/other", "right")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")
            connection.close()

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(ClusterError, match=r"is not a Ray job API"):
            check_job_api(f"http://127.0.0.1:{listener.getsockname()[1]}", None)


def test_a_token_does_not_follow_a_redirect(api: str) -> None:
    assert request(f"{api}/moved", "/api/version", "right")[0] == 302


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=rf"cannot reach the Ray cluster at http://127\.0\.0\.1:{port}: .*; check the address"):
        run_job(["true"], address=f"127.0.0.1:{port}", on_line=print, environment={})
    assert time.monotonic() - begun < 2


def test_lines_are_whole_wherever_the_log_is_cut() -> None:
    log = "setting up\nRunning entrypoint for job j: python -c 'a\nb'\nfirst\n\nRunning entrypoint\nlast"
    header = "Running entrypoint for job j: python -c 'a\nb'\n"
    for cut in range(len(log)):
        lines: list[str] = []
        output = JobOutput(header, lines.append)
        output.feed(log[:cut])
        output.complete(log)
        output.complete(log)
        output.end()
        output.end()
        assert lines == ["first", "", "Running entrypoint", "last"]
        assert list(output.last) == ["first", "Running entrypoint", "last"]


def test_a_job_that_did_not_begin_has_no_lines() -> None:
    lines: list[str] = []
    output = JobOutput("Running", lines.append)
    output.complete("no room")
    output.end()
    assert lines == [] and jobs.last_lines(output.last) == "it printed nothing"


@pytest.mark.parametrize("streams", [True, False])
def test_no_line_is_missed_or_doubled_when_the_connection_drops(monkeypatch: pytest.MonkeyPatch, streams: bool) -> None:
    monkeypatch.setattr(jobs, "_POLL_LOG_S", 0.05)
    client = Cluster("go\n" + "".join(f"{i}\n" for i in range(50)), ["PENDING", "RUNNING", "LOST", "RUNNING", "SUCCEEDED"], streams=streams)
    lines: list[str] = []
    details = jobs._follow(client, "j", JobOutput("go\n", lines.append))  # type: ignore[arg-type]
    assert details.status.value == "SUCCEEDED"
    assert lines == [str(i) for i in range(50)]
    assert not [thread for thread in threading.enumerate() if thread.name == "primia-job-log"]


def test_a_cluster_that_goes_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_PATIENCE_S", 0.1)
    with pytest.raises(ClusterError, match=r"lost the Ray cluster while it ran job j: Request failed .* 500: no; check"):
        jobs._follow(Cluster("go\n", ["RUNNING", "LOST"]), "j", JobOutput("go\n", print))  # type: ignore[arg-type]


def test_a_job_is_asked_to_stop_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Cluster("", ["LOST", "PENDING", "RUNNING", "STOPPED"])
    jobs._stop(client, "j")  # type: ignore[arg-type]
    assert client.stops == 2
    monkeypatch.setattr(jobs, "_UNKNOWN_S", 0.1)
    jobs._stop(Cluster("", ["LOST"]), "j")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "message", "said"),
    [
        ("FAILED", 3, "long", "failed with exit code 3"),
        ("FAILED", -9, "long", "was killed by signal 9"),
        ("FAILED", None, "Traceback\n  deep\nValueError: no room.", "failed: ValueError: no room"),
        ("FAILED", None, None, "failed: Ray gives no reason"),
        ("STOPPED", None, None, "was stopped by somebody else"),
    ],
)
def test_a_failure_is_one_line(status: str, code: int | None, message: str | None, said: str) -> None:
    output = JobOutput("go\n", lambda line: None)
    output.feed("go\none\ntwo\n")
    details = SimpleNamespace(status=SimpleNamespace(value=status), driver_exit_code=code, message=message)
    error = jobs._failure("j", "http://h:1", details, output)  # type: ignore[arg-type]
    assert str(error) == f"job j on the Ray cluster at http://h:1 {said}; its last lines: one | two"


def test_a_proxy_is_not_asked_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "intranet")
    assert jobs._without_proxy("http://10.0.0.1:8265") == {"no_proxy": "intranet,10.0.0.1", "NO_PROXY": "intranet,10.0.0.1"}
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert jobs._without_proxy("http://10.0.0.1:8265")["no_proxy"] == "10.0.0.1"


def test_importing_jobs_and_heads_does_not_import_ray() -> None:
    code = (
        "import sys, primia.cluster.jobs, primia.cluster.head; print([name for name in ('ray', 'torch', 'aiohttp') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert found.stdout.strip() == "[]"
