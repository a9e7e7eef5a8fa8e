from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from primia import api
from primia.config.reader import dump_config, load_config
from primia.config.settings import Settings
from primia.consent import mock
from primia.consent.box import SiteBox
from primia.consent.boxes import create_boxes, find_boxes
from primia.data.prepare import prepare
from primia.errors import ConsentError, DataError
from primia.federation.data import new_data

fixtures = runpy.run_path(str(Path(__file__).parents[1] / "audits" / "conftest.py"))
STUDY = Settings().federation.identity


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SiteBox, ...]:
    """Boxes of three sites, and in ``run`` a finished run on them."""
    monkeypatch.setattr(mock, "LEAST_IMAGES", 8)
    folder = fixtures["make_run"](tmp_path / "run")
    packed = prepare(load_config(folder / "config.ini").data, tmp_path / ".shards")
    made = create_boxes(tmp_path / "boxes", packed.sites[0].train.parents[1])
    trained_on(folder, tmp_path / "boxes", dry_run=False)
    return made


def trained_on(folder: Path, boxes: Path, *, dry_run: bool) -> None:
    settings = load_config(folder / "config.ini")
    data = settings.data.model_copy(update={"source": "boxes", "path": boxes})
    changed = settings.model_copy(update={"data": data, "run": settings.run.model_copy(update={"dry_run": dry_run})})
    (folder / "config.ini").write_text(dump_config(changed))
    (folder / "data.json").write_text(json.dumps({"fingerprint": new_data(changed).fingerprint}))


def audited(folder: Path) -> None:
    api.audit(folder, only="membership", shadows=0)


def purposes(box: SiteBox) -> list[object]:
    return [entry.event["purpose"] for entry in box.audit_log()]


def test_an_audit_is_in_the_log_of_every_box(tmp_path: Path, boxes: tuple[SiteBox, ...]) -> None:
    for box in boxes:
        box.grant(STUDY)
    audited(tmp_path / "run")
    for box in find_boxes(tmp_path / "boxes"):
        expected = {"purpose": "audit", "federation": STUDY, "run": "run", "attacks": "membership"}
        assert box.audit_log()[-1].event == expected and purposes(box) == ["init", "grant", "audit"]


def test_an_audit_in_one_run_opens_the_box_that_it_is_of(tmp_path: Path, boxes: tuple[SiteBox, ...]) -> None:
    for box in boxes:
        box.grant(STUDY)
    stated = {"unit": "image", "noise_multiplier": 4.0, "clip": 1.0, "sample_rate": 0.25, "units": 17, "views": 1, "steps": 2}
    site = stated | {"delta": 1e-5, "accountant": "rdp", "epsilon": 1.0}
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"name": "run", "privacy": {"sites": {boxes[0].name: site}}}))
    done = api.audit(tmp_path / "run", only="one-run", canaries=10)
    assert done.one_run and not done.one_run.is_refuted
    assert all(purposes(box) == ["init", "grant", "audit"] for box in boxes)


@pytest.mark.parametrize("why", ["was never granted", "was revoked"])
def test_without_one_owners_grant_no_private_half_is_opened(tmp_path: Path, boxes: tuple[SiteBox, ...], why: str) -> None:
    for box in boxes[:-1]:
        box.grant(STUDY)
    if why == "was revoked":
        boxes[-1].grant(STUDY)
        boxes[-1].revoke(STUDY)

    for box in boxes:
        for split in box.splits:
            box.shard(split, dry_run=False).write_text("not to be opened")
    with pytest.raises(ConsentError, match=f"site {boxes[-1].name!r} does not take part: federation {STUDY} {why}"):
        audited(tmp_path / "run")
    assert all("audit" not in purposes(box) for box in boxes)
    assert not (tmp_path / "run" / "audit.json").exists()


def test_images_that_were_exchanged_leave_no_line(tmp_path: Path, boxes: tuple[SiteBox, ...]) -> None:
    for box in boxes:
        box.grant(STUDY)
    (tmp_path / "run" / "data.json").write_text(json.dumps({"fingerprint": "other"}))
    with pytest.raises(DataError, match="the images are not those"):
        audited(tmp_path / "run")
    assert all("audit" not in purposes(box) for box in boxes)


def test_a_dry_runs_mock_halves_need_no_grant(tmp_path: Path, boxes: tuple[SiteBox, ...]) -> None:
    trained_on(tmp_path / "run", tmp_path / "boxes", dry_run=True)
    audited(tmp_path / "run")
    assert all(purposes(box) == ["init"] for box in boxes)
