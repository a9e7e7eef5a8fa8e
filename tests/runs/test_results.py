from __future__ import annotations

import pytest

from primia.errors import RunError
from primia.runs.results import RunResults


def test_rounds_in_order_with_their_sites(make_run):
    results = RunResults.read(make_run())
    assert [item.round for item in results.rounds] == [1, 2, 3, 4, 5, 6]
    third = results.rounds[2]
    assert list(third.sites) == ["hospital-a", "hospital-b", "hospital-c"]
    assert third.sites["hospital-b"].status == "the worker died"
    assert third.sites["hospital-b"].validation_mcc is None


def test_steps_are_summed_over_sites_and_not_over_the_row_of_all(make_run):
    assert RunResults.read(make_run()).steps == (6 * 3 - 1) * 8


def test_fingerprint_is_unknown_without_data_json(make_run):
    run = make_run()
    assert RunResults.read(run).fingerprint == "5eed"
    (run / "data.json").unlink()
    assert RunResults.read(run).fingerprint is None


def test_a_damaged_data_json_is_one_clear_error(make_run):
    run = make_run()
    (run / "data.json").write_text('{"finger')
    with pytest.raises(RunError, match=r"data\.json cannot be read; was the folder copied whole\?"):
        RunResults.read(run)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "summary.json").unlink(), "not finished; go on with: primia-ray train --resume"),
        (lambda run: [(run / name).unlink() for name in ("summary.json", "config.ini")], "not a run folder"),
        (lambda run: (run / "summary.json").write_text('{"mode": '), "summary.json cannot be read"),
        (lambda run: (run / "summary.json").write_text('{"mode": "alone"}'), "summary.json cannot be read"),
        (lambda run: (run / "rounds.parquet").unlink(), "rounds.parquet cannot be read"),
        (lambda run: (run / "rounds.parquet").write_bytes(b"PAR1 cut short"), "rounds.parquet cannot be read"),
    ],
)
def test_a_spoilt_folder_is_told_in_one_line(make_run, spoil, said):
    run = make_run()
    spoil(run)
    with pytest.raises(RunError, match=said) as caught:
        RunResults.read(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        RunResults.read(tmp_path / "nowhere")
