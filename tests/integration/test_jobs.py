from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from primia.cluster.head import LocalHead, local_head
from primia.cluster.jobs import find_token, request, run_job
from primia.errors import ClusterError

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")]

ACTOR = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=0)
class Adder:
    def add(self, a, b):
        return a + b
adder = Adder.remote()
print("sum", ray.get(adder.add.remote(20, 22)))
for i in range(40):
    print("line", i)
print("it's", "all", end="")
"""
KILLED = """
import time
from primia.cluster.head import local_head
with local_head(cpus=1, gpus=0):
    time.sleep(120)
"""


def marked(mark: str) -> list[int]:
    """Living processes with the mark, which come of one head or command."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int(folder.name) != os.getpid() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def left_behind(mark: str, limit_s: float) -> list[int]:
    end = time.monotonic() + limit_s
    while (pids := marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return pids


@contextmanager
def marked_head(mark: str) -> Iterator[LocalHead]:
    """A head all of whose processes carry ``mark``, and which has to leave none of them behind."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PRIMIA_TEST_MARK", mark)
            with local_head(cpus=1, gpus=0) as head:
                patch.undo()
                yield head
    finally:
        pids = left_behind(mark, 5.0)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert not pids
    assert not Path(head.environment["RAY_AUTH_TOKEN_PATH"]).parent.exists()


@pytest.fixture(scope="module")
def head() -> Iterator[LocalHead]:
    with marked_head(uuid.uuid4().hex) as running:
        yield running


def run_python(head: LocalHead, code: str) -> list[str]:
    lines: list[str] = []
    run_job([sys.executable, "-c", code], address=head.dashboard_url, environment=head.environment, on_line=lines.append)
    return lines


def statuses(head: LocalHead) -> list[str]:
    return [job["status"] for job in json.loads(request(head.dashboard_url, "/api/jobs/", find_token(head.environment))[1])]


def test_what_a_job_prints_arrives_in_order_and_whole(head: LocalHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # neither is meant for this cluster
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run_python(head, ACTOR) == ["sum 42", *(f"line {i}" for i in range(40)), "it's all"]


def test_a_failed_job_is_one_error_with_its_last_lines(head: LocalHead) -> None:
    with pytest.raises(
        ClusterError, match=r"^job primia-\w+ on the Ray .* failed with exit code 1; .*before \| .*ValueError: bad$"
    ) as caught:
        run_python(head, "print('before'); raise ValueError('bad')")
    assert "\n" not in str(caught.value)


def test_ctrl_c_stops_the_job(head: LocalHead) -> None:
    mark = uuid.uuid4().hex

    def interrupt(line: str) -> None:
        assert line == "waiting"
        signal.raise_signal(signal.SIGINT)

    code = f"import time; print('waiting', flush=True); time.sleep(100)  # {mark}"
    with pytest.raises(KeyboardInterrupt):
        run_job([sys.executable, "-c", code], address=head.dashboard_url, environment=head.environment, on_line=interrupt)
    assert sorted(statuses(head))[-1] in ("STOPPED", "SUCCEEDED") and "RUNNING" not in statuses(head)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path, mark)]


def _holds(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


def test_the_token_of_another_cluster_is_refused_at_once(head: LocalHead) -> None:
    begun = time.monotonic()
    with pytest.raises(ClusterError, match="refuses the token"):
        run_job(["true"], address=head.dashboard_url, environment={"RAY_AUTH_TOKEN": "0" * 64}, on_line=print)
    assert time.monotonic() - begun < 3


def test_two_heads_side_by_side_do_not_disturb_each_other(head: LocalHead) -> None:
    where = "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); print(ray.get_runtime_context().gcs_address)"
    found: dict[str, list[str]] = {}
    with pytest.raises(ZeroDivisionError), marked_head(uuid.uuid4().hex) as other:
        assert find_token(head.environment) != find_token(other.environment)
        threads = [threading.Thread(target=lambda one=one: found.update({one.address: run_python(one, where)})) for one in (head, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raise ZeroDivisionError  # it leaves nothing behind on this way out either
    assert found == {one.address: [one.address] for one in (head, other)}
    assert statuses(head)


def test_a_head_whose_parent_is_killed_ends_and_clears_away() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, "-c", KILLED], env={**os.environ, "PRIMIA_TEST_MARK": mark}) as process:
        end = time.monotonic() + 60
        while not (servers := [pid for pid in marked(mark) if _holds(Path(f"/proc/{pid}/cmdline"), "gcs_server")]):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        variables = Path(f"/proc/{servers[0]}/environ").read_text().split("\0")
        folder = Path(next(value for name, _, value in (one.partition("=") for one in variables) if name == "RAY_AUTH_TOKEN_PATH")).parent
        assert (folder / "token").exists()
        process.kill()
    assert not left_behind(mark, 30.0)
    assert not folder.exists()
