from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from primia.config.settings import InferenceSettings
from primia.inference.service import Mode
from primia.inference.spec import InferenceSpec


def spec(**fields: object) -> InferenceSpec:
    given = {"run": Path("/runs/a"), "inference": InferenceSettings(), "threads": 2}
    return InferenceSpec.model_validate(given | fields)


@pytest.mark.parametrize("mode", Mode)
def test_a_spec_travels_as_json(mode: Mode) -> None:
    sent = spec(
        mode=mode,
        inference=InferenceSettings(pipeline=3, dealer="zone=a b"),
        data=Path("/im ages/é"),
        output=Path("/out/p.csv"),
        resume=True,
        fetch=True,
        preprocess=7,
        keys=Path("/keys"),
        calibration=Path("/own"),
    )
    received = InferenceSpec.model_validate_json(sent.model_dump_json())
    assert received == sent and received.mode is mode and received.keys == Path("/keys")


def test_what_is_no_spec_is_refused() -> None:
    for fields in ({"mode": 7}, {"threads": "many"}, {"weights": "x"}):
        with pytest.raises(ValidationError):
            spec(**fields)


def test_the_journal_lies_beside_an_output_on_the_same_node() -> None:
    assert spec(output=Path("/out/p.csv")).journal == Path("/out/.p.csv.partial")


def test_the_journal_of_an_output_that_is_fetched_is_found_again_and_is_its_own() -> None:
    first = spec(output=Path("/out/p.csv"), data=Path("/a"), fetch=True)
    assert first.journal == spec(output=Path("/out/p.csv"), data=Path("/a"), fetch=True, resume=True).journal
    assert first.journal.parent == Path.home() / ".cache" / "primia"
    others = [{"data": Path("/b")}, {"output": Path("/out/q.csv")}, {"run": Path("/runs/b")}]
    given = {"output": Path("/out/p.csv"), "data": Path("/a"), "fetch": True}
    assert len({first.journal, *(spec(**given | other).journal for other in others)}) == 4
