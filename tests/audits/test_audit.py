from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from primia.audits.audit import PARTS, AuditOptions, run_audit
from primia.audits.inversion import Effort
from primia.audits.subject import Subject
from primia.errors import ConfigError

fixtures = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
GIVEN = {"thorough": False, "images": None, "shadows": None, "seed": 1, "only": None}


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    return Subject.open(fixtures["make_run"](tmp_path_factory.mktemp("audited") / "run"), fixtures["locate"])


def options(**changes) -> AuditOptions:
    return AuditOptions(images=1, shadows=2, effort=Effort(iterations=2), **changes)


def test_the_document_is_strict_json_with_all_numbers(subject):
    told = []
    audit = run_audit(subject, options(), lambda *at: told.append(at))
    document = json.loads(json.dumps(audit.document(), allow_nan=False))
    assert {part for part, _, _ in told} == {"inversion", "membership"} == set(document["seconds"])
    (first, *_) = document["inversion"]["results"]
    assert set(first) == {"network", "protection", "mean", "identified", "by_image"}
    assert len(document["inversion"]["results"]) == 8
    assert document["inversion"]["noise"]["epsilon"] == 8.0
    assert [attack["name"] for attack in document["membership"]["attacks"]] == ["loss threshold", "LiRA, online", "LiRA, offline"]
    assert set(document["membership"]["attacks"][0]["tpr_at_fpr"]) == {"0.01", "0.001"}
    assert document["membership"]["accountant"] is None
    assert document["one_run"] is None, "the run is not private"


@pytest.mark.parametrize("part, other", [("inversion", "membership"), ("membership", "inversion")])
def test_a_part_can_be_left_out(subject, part, other):
    document = run_audit(subject, options(parts=(part,)), lambda *at: None).document()
    assert document[other] is None and document[part] is not None


def test_numbers_follow_from_the_seed(subject):
    def numbers(seed: int) -> dict:
        document = run_audit(subject, replace(options(), seed=seed), lambda *at: None).document()
        bare = [result for result in document["inversion"]["results"] if result["protection"] != "masked"]
        means = [pytest.approx(result["mean"], abs=1e-3) for result in bare]
        return {"bare": means, "images": document["inversion"]["images"], "auc": [a["auc"] for a in document["membership"]["attacks"]]}

    assert numbers(1)["auc"] == numbers(1)["auc"] != numbers(2)["auc"]


def test_given_numbers_count_and_thorough_tries_harder():
    quick, thorough = AuditOptions.of(**GIVEN), AuditOptions.of(**GIVEN | {"thorough": True})
    assert quick == AuditOptions()
    assert thorough.images > quick.images and thorough.shadows > quick.shadows
    assert thorough.effort.iterations > quick.effort.iterations
    assert thorough.canaries > quick.canaries and thorough.most_steps > quick.most_steps
    given = AuditOptions.of(**GIVEN | {"thorough": True, "images": 1, "shadows": 0, "only": "membership", "canaries": 50})
    assert (given.images, given.shadows, given.parts, given.canaries) == (1, 0, ("membership",), 50)
    assert AuditOptions.of(**GIVEN).parts == PARTS


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"images": 0}, "--images 0"),
        ({"shadows": 3}, "--shadows 3"),
        ({"shadows": -2}, "--shadows -2"),
        ({"canaries": 3}, "--canaries 3"),
    ],
)
def test_numbers_without_a_meaning_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        AuditOptions.of(**GIVEN | wrong)


PRIVATE = {
    "unit": "image",
    "epsilon": 3.0,
    "delta": 1e-5,
    "accountant": "rdp",
    "noise_multiplier": 2.0,
    "sample_rate": 0.5,
    "steps": 6,
    "clip": 1.0,
    "views": 1,
    "units": 6,
}


def test_a_private_run_is_audited_in_one_run(tmp_path):
    folder = fixtures["make_run"](
        tmp_path / "run", spent={"sites": {"site-1": PRIVATE}}, privacy={"unit": "image", "noise_multiplier": 2.0}
    )
    told = []
    audit = run_audit(
        Subject.open(folder, fixtures["locate"]), options(parts=("one-run",), canaries=200, most_steps=4), lambda *at: told.append(at)
    )
    document = json.loads(json.dumps(audit.document(), allow_nan=False))
    found = document["one_run"]
    assert told[-1] == ("one-run", 4, 4) and set(document["seconds"]) == {"one-run"}
    assert (found["site"], found["unit"], found["delta"], found["steps"], found["steps_of_run"]) == ("site-1", "image", 1e-5, 4, 6)
    assert 0 <= found["epsilon_proven"] < found["epsilon_stated"] and not found["is_refuted"]
    assert set(found["bounds"]) == {"worst-case gradients", "odd images"}
    assert found["bounds"]["worst-case gradients"]["canaries"] == 200
