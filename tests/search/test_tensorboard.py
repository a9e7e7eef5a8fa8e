from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from primia.errors import ClusterError
from primia.search import tensorboard
from primia.search.tensorboard import OBJECTIVE, TensorBoard, view_command, write_trial

PARAMETERS = {"training.learning_rate": 0.01, "training.batch_size": 8, "augmentation.flip": True, "model.name": "convnet"}


def read(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def ask(url: str, path: str, body: dict[str, object]) -> Any:
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=10)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    return json.loads(answer.read())


Children = Callable[[], set[psutil.Process]]


def living() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture
def children() -> Children:
    """Gives the processes that the test has started and that live."""
    before = living()
    return lambda: living() - before


def fake_tensorboard(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    """What a child finds in place of TensorBoard; None: a package without a program."""
    package = folder / "fake" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if program is not None:
        (package / "main.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def test_a_trial_has_its_settings_by_type_and_its_objective(tmp_path: Path) -> None:
    folder = tmp_path / "0003" / "tensorboard"
    write_trial(folder, PARAMETERS, 0.75)
    board = read(folder)
    contents = {tag: board.SummaryMetadata(tag).plugin_data.content for tag in board.PluginTagToContent("hparams")}
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    values = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in start.hparams.items()}
    assert values == PARAMETERS and values["augmentation.flip"] is True and start.group_name == "0003"
    end = metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG])
    assert end.status == api_pb2.STATUS_SUCCESS
    (point,) = board.Scalars(OBJECTIVE)
    assert (point.step, point.value) == (0, 0.75)


def test_a_trial_without_a_value_has_failed(tmp_path: Path) -> None:
    write_trial(tmp_path, PARAMETERS, None)
    board = read(tmp_path)
    end = metadata.parse_session_end_info_plugin_data(board.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content)
    assert end.status == api_pb2.STATUS_FAILURE and OBJECTIVE not in board.Tags()["scalars"]


def test_the_server_lists_all_trials_and_ends_with_its_context(tmp_path: Path, children: Children) -> None:
    """Settings that only one of the trials has are there too."""
    given = [PARAMETERS, PARAMETERS, {"training.momentum": 0.5}]
    for number, parameters in enumerate(given):
        write_trial(tmp_path / f"{number:04d}" / "tensorboard", parameters, number / 4)
    with TensorBoard(tmp_path) as board:
        connection = http.client.HTTPConnection(board.url.removeprefix("http://").rstrip("/"), timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        # It answers before it has read the files.
        deadline = monotonic() + 20
        while len(groups := sessions(board.url)) < len(given):
            assert monotonic() < deadline
            sleep(0.2)
        experiment = ask(board.url, "/data/plugin/hparams/experiment", {"experimentName": ""})
        assert children()
    assert not children()
    assert {info["name"] for info in experiment["hparamInfos"]} == {*PARAMETERS, "training.momentum"}
    assert {info["name"]["tag"] for info in experiment["metricInfos"]} == {OBJECTIVE}
    assert {group["name"]: group["metricValues"][0]["value"] for group in groups} == {"0000": 0.0, "0001": 0.25, "0002": 0.5}


def sessions(url: str) -> list[dict[str, Any]]:
    wanted = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [{"metric": {"tag": OBJECTIVE}}], "startIndex": 0, "sliceSize": 9}
    groups: list[dict[str, Any]] = ask(url, "/data/plugin/hparams/session_groups", wanted).get("sessionGroups", [])
    return groups


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, r"ended with code 1 \(.*No module named tensorboard\.main\)"),
        ("print('no', 'such port', sep='\\n'); exit(3)", r"code 3 \(such port\)"),
    ],
)
def test_a_server_that_ends_at_once_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, why: str) -> None:
    fake_tensorboard(tmp_path, monkeypatch, program)
    with (
        pytest.raises(ClusterError, match=rf"^cannot start TensorBoard: .*{why}; .* later with: tensorboard --logdir \S+$"),
        TensorBoard(tmp_path),
    ):
        pass


def test_a_server_that_does_not_answer_is_killed_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: Children) -> None:
    fake_tensorboard(tmp_path, monkeypatch, "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)")
    monkeypatch.setattr(tensorboard, "_START_S", 0.5)
    monkeypatch.setattr(tensorboard, "_END_S", 0.2)
    with pytest.raises(ClusterError, match=r"cannot start TensorBoard: no answer within 0\.5 s; "), TensorBoard(tmp_path):
        pass
    assert not children()


def test_a_server_that_has_ended_by_itself_is_no_error_on_leaving(tmp_path: Path, children: Children) -> None:
    with TensorBoard(tmp_path):
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
    assert not children()


def test_the_command_line_to_look_later_is_safe_to_paste() -> None:
    assert shlex.split(view_command(Path("runs/a sweep"))) == ["tensorboard", "--logdir", "runs/a sweep"]
