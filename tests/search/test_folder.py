from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from primia.config.settings import SearchSettings, Settings
from primia.errors import RunError
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord

SETTINGS = Settings.model_validate({"search": {"space": {"training.momentum": "uniform(0, 0.9)"}, "trials": 7}})


def made(tmp_path: Path) -> SweepFolder:
    return SweepFolder.create(tmp_path / "runs" / "sweep", SETTINGS, "f1")


def test_a_place_to_go_on_in_is_new_each_time(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    places = []
    for _ in range(3):
        places.append(folder.new_place(3, 12))
        (tmp_path / places[-1]).mkdir(parents=True)
    assert places == ["trials/0003-from-012", "trials/0003-from-012-2", "trials/0003-from-012-3"]
    folder.write_records([TrialRecord(3, State.RUNNING, {}, place) for place in places])
    assert [record.folder for record in folder.records()] == places, "such folders can be read back"


def test_a_new_folder_holds_the_settings_with_the_space_and_no_trial(tmp_path: Path) -> None:
    folder = SweepFolder.open(made(tmp_path).path)
    assert folder.settings().search == SETTINGS.search and folder.settings().run.output == tmp_path / "runs"
    assert (folder.fingerprint(), folder.records(), folder.read_summary()) == ("f1", [], {})
    assert folder.trials.is_dir() and SweepFolder.is_sweep(folder.path)
    assert folder.place(12) == "trials/0012"


def test_an_existing_folder_is_never_taken(tmp_path: Path) -> None:
    path = made(tmp_path).path
    with pytest.raises(RunError, match=r"sweep exists already; give another --name, or go on with it: primia-ray tune --resume .*sweep$"):
        SweepFolder.create(path, SETTINGS, "f2")
    assert SweepFolder(path).fingerprint() == "f1"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot make sweep folder .*; give another --output"):
        made(tmp_path)


@pytest.mark.parametrize("lacks", ["config.ini", "sweep.parquet"])
def test_what_is_no_sweep_is_not_opened(tmp_path: Path, lacks: str) -> None:
    folder = made(tmp_path)
    (folder.path / lacks).unlink()
    with pytest.raises(RunError, match=r"is not a sweep folder: it has no config\.ini or no sweep\.parquet"):
        SweepFolder.open(folder.path)


def test_a_run_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "config.ini").touch()
    assert not SweepFolder.is_sweep(tmp_path) and not SweepFolder.is_sweep(tmp_path / "nowhere")


def test_the_table_is_written_anew_each_time(tmp_path: Path) -> None:
    folder = made(tmp_path)
    records = [TrialRecord(number, State.RUNNING, {}, folder.place(number)) for number in (1, 2)]
    folder.write_records(records)
    folder.write_records(records[:1])
    assert folder.records() == records[:1]


def test_time_goes_on_over_the_parts_of_a_sweep_and_its_start_stays(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert folder.begin(SearchSettings()) == 0.0
    begun = folder.read_summary()
    assert (begun["name"], begun["status"], begun["given"]) == ("sweep", "running", 1)
    assert datetime.fromisoformat(str(begun["started"])).tzinfo
    folder.write_summary({**begun, "status": "interrupted", "wall_seconds": 12.5, "started": "before"})
    assert folder.begin(SearchSettings(try_given=False)) == 12.5
    again = folder.read_summary()
    assert (again["status"], again["started"], again["wall_seconds"], again["given"]) == ("running", "before", 12.5, None)


def test_results_of_an_earlier_part_are_none_of_a_sweep_that_runs(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.begin(SearchSettings())
    privacy = {"unit": "image", "delta": {}, "accountant": "prv", "sites": {}, "trials": 3, "sentence": "so much"}
    ended = {"status": "stopped", "reason": "it was enough", "best": 3, "front": [3], "training_seconds": 5.0, "privacy": privacy}
    folder.write_summary({**folder.read_summary(), **ended})
    folder.begin(SearchSettings())
    assert set(folder.read_summary()) == {"name", "started", "part_started", "wall_seconds", "status", "given"}


def see_a_trial_end(folder: SweepFolder, after: float) -> None:
    """As if the part that runs had seen its last trial end ``after`` so many seconds."""
    began = folder.result().part_started
    assert began is not None and abs(datetime.now(UTC) - began) < timedelta(seconds=60)
    os.utime(folder.table, (began.timestamp() + after,) * 2)


def test_the_time_of_killed_parts_counts_up_to_their_last_trials(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.begin(SearchSettings())
    see_a_trial_end(folder, after=90.0)
    assert folder.begin(SearchSettings()) == pytest.approx(90.0, abs=1e-3)
    see_a_trial_end(folder, after=30.0)
    assert folder.begin(SearchSettings()) == pytest.approx(120.0, abs=1e-3)


def test_a_part_that_was_killed_before_any_trial_takes_no_time_away(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.begin(SearchSettings())
    see_a_trial_end(folder, after=-500.0)
    assert folder.begin(SearchSettings()) == 0.0


def test_the_time_of_a_part_that_ended_is_what_it_wrote(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.begin(SearchSettings())
    see_a_trial_end(folder, after=90.0)
    folder.write_summary({**folder.read_summary(), "status": "stopped", "wall_seconds": 12.5})
    assert folder.begin(SearchSettings()) == 12.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[1]", "it is no JSON object"),
        ('{"wall_seconds": "long"}', "wall_seconds: Input should be a valid number"),
        ('{"status": "running", "part_started": "2026-11-25T03:49:27"}', "part_started: Input should have timezone info"),
    ],
)
def test_a_damaged_summary_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    folder = made(tmp_path)
    folder.summary.write_text(text)
    with pytest.raises(RunError, match=rf"sweep\.json cannot be read \({said}.*\); was it changed by hand\? Put it back as it was$"):
        folder.begin(SearchSettings())
    assert folder.summary.read_text() == text


def test_commands_are_typed_as_a_shell_reads_them(tmp_path: Path) -> None:
    folder = SweepFolder(Path("runs/my sweep"))
    assert folder.train_command == "primia-ray train --config 'runs/my sweep/best.ini'"
    assert folder.resume_command == "primia-ray tune --resume 'runs/my sweep'"


def test_a_summary_has_no_number_that_json_has_not(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.write_summary({"value": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.write_summary({"value": float("nan")})
    assert json.loads(folder.summary.read_text()) == {"value": 1}


def test_a_sweep_that_never_began_can_be_removed(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.remove()
    assert not folder.path.exists()
    folder.remove()
