from __future__ import annotations

import base64
import io
import json
import re
import runpy
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from primia.audits.audit import Audit, AuditOptions, run_audit
from primia.audits.figures import membership_curves, picture_source
from primia.audits.inversion import Effort
from primia.audits.one_run import OneRunAudit
from primia.audits.one_run_bound import OneRunBound
from primia.audits.page import compare_bound, headlines, one_run_line, render_audit, write_audit
from primia.audits.subject import Budget, Stated, Subject
from primia.errors import RunError
from primia.privacy.mechanism import Mechanism

fixtures = runpy.run_path(str(Path(__file__).with_name("conftest.py")))


@pytest.fixture(scope="module")
def audit(tmp_path_factory) -> Audit:
    folder = fixtures["make_run"](tmp_path_factory.mktemp("audited") / "<b>run</b>", model={"pooling": "max"}, run={"name": "run"})
    document = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(document | {"name": "<b>run</b>"}))
    subject = Subject.open(folder, fixtures["locate"])
    options = AuditOptions(images=2, shadows=2, effort=Effort(iterations=2), parts=("inversion", "membership"))
    return run_audit(subject, options, lambda *at: None)


class Sources(HTMLParser):
    """Everything that a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.others: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if tag == "img" and name == "src":
                self.images.append(value)
            elif name in ("src", "href"):
                self.others.append(value)


def test_the_page_is_self_contained_and_shows_each_original_beside_what_came_back(audit):
    sources = Sources(render_audit(audit))
    pngs = [source for source in sources.images if source.startswith("data:image/png;base64,")]
    assert len(pngs) == 3 * 2 * (1 + 4)  # networks, images, the original and four protections
    assert len(sources.images) == len(pngs) + 1
    assert sources.images[-1].startswith("data:image/svg+xml")
    assert sources.others == []


def test_every_reconstruction_has_its_numbers(audit):
    page = render_audit(audit)
    for result in audit.inversion.results:
        assert f"SSIM {result.similarity.ssim:.3f}, {result.similarity.psnr:.1f} dB" in page
    assert page.count("picked out</span>") == sum(result.identified for result in audit.inversion.results)


def test_no_name_brings_markup_of_its_own(audit):
    page = render_audit(audit)
    assert "<b>run" not in page and "&lt;b&gt;run&lt;/b&gt;" in page


@pytest.mark.parametrize("part", ["inversion", "membership"])
def test_a_part_that_was_left_out_is_not_mentioned(audit, part):
    page = render_audit(replace(audit, **{part: None}))
    gone, kept = ("gradient inversion", "membership inference") if part == "inversion" else ("membership inference", "gradient inversion")
    assert gone not in page and kept in page


def test_files_are_for_their_owner_alone(audit):
    page = write_audit(audit)
    document = page.with_name("audit.json")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, document)] == [0o600, 0o600]
    assert json.loads(document.read_text())["run"] == "<b>run</b>"
    assert not list(page.parent.glob(".audit*"))


def test_a_folder_that_is_gone_is_one_line(audit, tmp_path):
    gone = replace(audit, subject=replace(audit.subject, path=tmp_path / "gone"))
    with pytest.raises(RunError, match="cannot write"):
        write_audit(gone)


def test_real_images_are_said_to_be_on_the_page_and_synthetic_ones_to_be_that(audit):
    real = replace(audit, subject=replace(audit.subject, card=replace(audit.subject.card, synthetic=False)))
    assert "This page shows training images" in render_audit(real)
    assert "Synthetic images" in render_audit(audit)


def test_a_picture_is_enlarged_by_whole_pixels():
    values = torch.tensor([[0.0, 1.0], [0.5, -2.0]]).view(1, 1, 2, 2)
    png = base64.b64decode(picture_source(values).partition(",")[2])
    enlarged = np.asarray(Image.open(io.BytesIO(png)))
    assert enlarged.shape == (160, 160)
    assert np.array_equal(enlarged[::80, ::80], [[0, 255], [128, 0]])
    assert all(len(np.unique(enlarged[row : row + 80, column : column + 80])) == 1 for row in (0, 80) for column in (0, 80))


def test_a_colour_picture_keeps_its_channels():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    image = Image.open(io.BytesIO(base64.b64decode(picture_source(red).partition(",")[2])))
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 0, 0)


def test_the_curve_has_each_attack_and_guessing_on_logarithmic_axes(audit):
    svg = membership_curves(audit.membership)
    for said in ("guessing", "loss threshold, area", "LiRA, online, area", "LiRA, offline, area", "0.1"):
        assert said in svg


@pytest.mark.parametrize(
    "proven, budget, said",
    [
        (1.0, None, "not trained with differential privacy"),
        (1.0, Budget(3.0, 0.01), "The two agree"),
        (4.0, Budget(3.0, 0.01), "Both cannot hold"),
    ],
)
def test_the_bound_is_held_against_the_accountant(audit, proven, budget, said):
    attacks = tuple(replace(attack, bound=replace(attack.bound, epsilon=proven)) for attack in audit.membership.attacks)
    membership = replace(audit.membership, attacks=attacks, budget=budget)
    assert said in compare_bound(membership)
    assert said in render_audit(replace(audit, membership=membership))


def test_headlines_say_whether_the_attack_beats_guessing(audit):
    def line(low: float, high: float) -> str:
        attacks = tuple(replace(attack, interval=(low, high)) for attack in audit.membership.attacks)
        return headlines(replace(audit, inversion=None, membership=replace(audit.membership, attacks=attacks)))[0]

    assert "could not tell" in line(0.45, 0.55)
    assert re.search(r"95 % interval 0\.600 to 0\.700", line(0.6, 0.7))


def test_the_inversion_headline_counts_what_was_picked_out(audit):
    def said(**picked: bool) -> str:
        results = tuple(replace(result, identified=picked.get(result.protection, False)) for result in audit.inversion.results)
        return headlines(replace(audit, inversion=replace(audit.inversion, results=results), membership=None))[0]

    assert said(none=True).startswith("Without protection, 2 of 2 training images")
    assert "mask of secure aggregation it was 0 of 2, behind differential privacy 2 of 2." in said(noised=True)
    assert said(sum=True).endswith("From the sum over 3 sites with one image each, which secure aggregation does show, it was 2 of 2.")


STATED = Stated("site-1", "image", Mechanism(2.0, 1.0, 0.1, 50), 1, 60, 1e-5, "prv")


def with_one_run(audit, proven: float, steps: int = 60, stated: Stated = STATED):
    bounds = {"worst-case gradients": OneRunBound(proven, 1e-5, 0.975, 1000, 100, 91)}
    options = replace(audit.options, parts=("one-run",))
    return replace(audit, options=options, inversion=None, membership=None, one_run=OneRunAudit(stated, steps, 2.0, bounds))


def test_the_bound_of_one_run_stands_beside_what_is_stated(audit):
    agreeing = with_one_run(audit, 1.25)
    page = render_audit(agreeing)
    assert "epsilon is at least 1.25; stated is at most 2 (both at delta 1e-05). The two agree." in one_run_line(agreeing)
    assert one_run_line(agreeing) in page and "worst-case gradients" in page and "at least 1.25" in page
    assert "ERROR" not in page
    assert "for the first 30 of 60 steps" in one_run_line(with_one_run(audit, 1.25, steps=30))
    assert "for the first 30 of 60 rounds" in one_run_line(with_one_run(audit, 1.25, 30, replace(STATED, unit="site")))


def test_more_proven_than_stated_is_an_error(audit):
    refuted = with_one_run(audit, 2.5)
    assert one_run_line(refuted).startswith("ERROR: ") and "Both cannot hold" in one_run_line(refuted)
    assert f'<strong class="worst">{one_run_line(refuted)}' in render_audit(refuted).replace("&#39;", "'")
    assert refuted.document()["one_run"]["is_refuted"]


def test_a_run_without_differential_privacy_is_said_to_have_no_mechanism(audit):
    asked = replace(audit, options=replace(audit.options, parts=("one-run",)))
    assert "not trained with differential privacy" in one_run_line(asked)
    assert one_run_line(asked) in headlines(asked) and one_run_line(asked) in render_audit(asked)
    assert one_run_line(audit) == ""
