from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from primia.errors import RunError
from primia.federation.driver.checkpoint import Best, Checkpoints, Progress, RunState
from primia.federation.update import GlobalModel


def model(round_: int) -> GlobalModel:
    return GlobalModel(round_, np.full(1000, round_, dtype=np.float32), np.full(4, round_, dtype=np.float32))


def state(round_: int, best: int) -> RunState:
    return RunState(
        model=model(round_),
        server={"momentum": np.arange(1000, dtype=np.float32) * round_},
        best=Best(model(best), 0.1 * best, {"mcc": 0.1 * best}, {"a": {"mcc": 0.2}}),
        progress=Progress(2, {"a": 7}, {"a": 9}, {"training": 1.5}, ({"round": 1, "site": "b", "reason": "gone"},)),
    )


def saved(folder: Path, rounds: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=2)
    for round_ in range(1, rounds + 1):
        checkpoints.write(state(round_, best=min(round_, 2)))
    return checkpoints


def test_everything_comes_back(tmp_path: Path) -> None:
    loaded, complaints = saved(tmp_path).load_latest()
    expected = state(3, best=2)
    assert loaded is not None and not complaints
    assert loaded.model.round == 3 and np.array_equal(loaded.model.parameters, expected.model.parameters)
    assert np.array_equal(loaded.server["momentum"], expected.server["momentum"])
    assert loaded.best is not None and expected.best is not None
    assert loaded.best.model.round == 2 and np.array_equal(loaded.best.model.parameters, expected.best.model.parameters)
    assert (loaded.best.mcc, loaded.best.validation, loaded.best.sites) == (expected.best.mcc, {"mcc": 0.2}, {"a": {"mcc": 0.2}})
    assert loaded.progress == expected.progress


def test_only_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, rounds=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-000002.safetensors",
        "round-000004.json",
        "round-000004.safetensors",
        "round-000005.json",
        "round-000005.safetensors",
    ]


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path)
    vectors = tmp_path / "round-000003.safetensors"
    data = bytearray(vectors.read_bytes())
    if damage == "cut":
        vectors.write_bytes(data[:-100])
    elif damage == "flip":
        data[-5] ^= 1
        vectors.write_bytes(data)
    elif damage == "missing":
        vectors.unlink()
    else:
        (tmp_path / "round-000003.json").write_text('{"round": 3')
    loaded, complaints = checkpoints.load_latest()
    assert loaded is not None and loaded.model.round == 2
    assert len(complaints) == 1 and "round 3" in complaints[0]
    checkpoints.write(state(3, best=2))
    again, complaints = checkpoints.load_latest()
    assert again is not None and again.model.round == 3 and not complaints


def test_when_none_is_whole_nothing_is_thrown_away(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    best = tmp_path / "best-000002.safetensors"
    best.write_bytes(best.read_bytes()[:50])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole: checkpoint of round 3 .*best-000002"):
        checkpoints.load_latest()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_older_damaged_document_does_not_stop_the_next_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "round-000002.json").write_text("{")
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.load_latest()[0] is not None
    checkpoints.write(state(4, best=2))
    assert checkpoints.rounds()[-1] == 4 and (tmp_path / "best-000002.safetensors").exists()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", 2).load_latest() == (None, [])


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RunError, match=r"cannot make .*checkpoints: Not a directory"):
        Checkpoints(blocked / "checkpoints", 2).write(state(1, best=1))


def test_a_copy_is_whole_without_the_others(tmp_path: Path) -> None:
    saved(tmp_path / "from", rounds=5).copy(5, tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "best-000002.safetensors",
        "round-000005.json",
        "round-000005.safetensors",
    ]
    loaded, complaints = Checkpoints(tmp_path / "to", 2).load_latest()
    assert loaded is not None and not complaints and (loaded.model.round, loaded.progress) == (5, state(5, best=2).progress)
    assert loaded.best is not None and np.array_equal(loaded.best.model.parameters, model(2).parameters)


def test_a_copy_before_the_first_validation_has_no_best_model(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "from", 2)
    checkpoints.write(RunState(model(1)))
    checkpoints.copy(1, tmp_path / "to")
    loaded, _ = Checkpoints(tmp_path / "to", 2).load_latest()
    assert loaded is not None and (loaded.model.round, loaded.best) == (1, None)


def test_a_copy_waits_for_the_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "from", rounds=2)
    writer = Timer(0.1, checkpoints.write, [state(3, best=2)])
    writer.start()
    checkpoints.copy(3, tmp_path / "to")
    writer.join()
    assert Checkpoints(tmp_path / "to", 2).rounds() == [3]


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_checkpoint_that_does_not_come_cannot_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    monkeypatch.setattr("primia.federation.driver.checkpoint._WRITTEN_S", 0.05)
    with pytest.raises(RunError, match=r"from has no checkpoint of round 3$"):
        saved(tmp_path / "from", rounds).copy(3, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_folder_that_is_a_link_is_neither_read_nor_cleared(tmp_path: Path) -> None:
    saved(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for use in (checkpoints.load_latest, checkpoints.rounds, lambda: checkpoints.write(state(4, best=2))):
        with pytest.raises(RunError, match="a link"):
            use()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == before


def test_what_is_none_of_its_files_is_left_alone(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "round-000001.json").mkdir()
    checkpoints.write(state(4, best=2))
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "round-000001.json").is_dir()


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "round-000003.json", "round-000003.safetensors\n", ""])
@pytest.mark.parametrize("part", ["vectors", "best"])
def test_a_document_names_files_of_its_own_folder_alone(tmp_path: Path, name: str, part: str) -> None:
    checkpoints = saved(tmp_path / "checkpoints", rounds=1)
    path = tmp_path / "checkpoints" / "round-000001.json"
    shutil.copy(tmp_path / "checkpoints" / "round-000001.safetensors", tmp_path / "stolen.safetensors")
    document = json.loads(path.read_text())
    (document if part == "vectors" else document["best"])["vectors"]["file"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole.*file: String should match pattern"):
        checkpoints.load_latest()
    with pytest.raises(RunError, match="cannot be copied"):
        checkpoints.copy(1, tmp_path / "to")


@pytest.mark.parametrize("text", ["null", "[]", '{"round": 1}', "[" * 100_000, '{"vectors": 3, "progress": {}, "best": null}'])
def test_a_document_of_another_kind_falls_back_to_the_one_before(tmp_path: Path, text: str) -> None:
    checkpoints = saved(tmp_path)
    (tmp_path / "round-000003.json").write_text(text)
    loaded, complaints = checkpoints.load_latest()
    assert loaded is not None and loaded.model.round == 2 and len(complaints) == 1 and "\n" not in complaints[0]


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    path = tmp_path / "round-000003.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"new": 1, "progress": document["progress"] | {"new": 1}}))
    loaded, complaints = checkpoints.load_latest()
    assert loaded is not None and loaded.progress == state(3, best=2).progress and not complaints


def test_vectors_of_another_model_are_refused() -> None:
    state(3, best=2).check_fit(1000, 4)
    for parameters, buffers in ((999, 4), (1000, 5)):
        with pytest.raises(RunError, match="of another model"):
            state(3, best=2).check_fit(parameters, buffers)
