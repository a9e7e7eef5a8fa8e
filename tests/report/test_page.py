from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from primia.errors import RunError
from primia.report.page import headline, render_report, write_report
from primia.runs.results import RunResults

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Text, tags and attributes; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.sources = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page(run):
    return Page(render_report(RunResults.read(run)))


def test_written_into_the_run_folder_whole(make_run):
    run = make_run()
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text() == render_report(RunResults.read(run))
    assert sorted(file.name for file in run.iterdir()) == ["config.ini", "data.json", "report.html", "rounds.parquet", "summary.json"]


def test_numbers_are_the_summarys(make_run):
    run = make_run(change=lambda s: s["test"].update(mcc=0.54321, balanced_accuracy=0.65432, roc_auc=None))
    text = page(run).text
    summary = json.loads((run / "summary.json").read_text())
    assert "an MCC of 0.543 and a balanced accuracy of 65.4 %" in text
    assert f"it does worst at hospital-c, with an MCC of {summary['worst_site']['mcc']:.3f}." in text
    assert "180 test images" in text
    assert "540 synthetic images of 3 sites" in text


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(make_run):
    parsed = page(make_run())
    assert parsed.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parsed.sources)
    assert not {"script", "link", "iframe", "object", "svg"} & set(parsed.tags)


def test_synthetic_images_are_said_where_they_are(make_run):
    assert "Synthetic images." in page(make_run("synthetic")).text
    assert "ynthetic" not in page(make_run("real", change=lambda s: s.update(synthetic=False, config={"run": {}}))).text


def test_names_of_users_cannot_bring_markup(make_run):
    evil = "<script>alert(1)</script>"

    def spread(summary):
        summary["name"] = evil
        summary["model"]["name"] = evil
        summary["data"]["skipped"] = [evil]
        summary["faults"] = [{"round": 1, "site": evil, "reason": evil}]
        summary["versions"][evil] = evil
        summary["config"]["run"][evil] = evil
        summary["status"] = evil

    run = make_run(sites=[evil, "'\" onload=alert(1)", "c"], classes=[evil, "&amp;", "</table>"], change=spread)
    parsed = page(run)
    assert "script" not in parsed.tags
    assert parsed.text.count(evil) > 10
    pictures = [base64.b64decode(source.split(",")[1]).decode() for source in parsed.sources]
    assert not any("<script" in picture for picture in pictures)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "federated"}, "Each site trained on its own images; model updates and summary statistics left it, images did not."),
        ({"mode": "pooled"}, "The images of all sites were used as one set."),
        ({"mode": "local", "site": "hospital-b"}, "180 synthetic images of 1 site"),
        ({"mode": "local", "site": "hospital-b"}, "Only the images of hospital-b were used."),
        ({"classes": [f"c{i}" for i in range(10)]}, "to tell 10 classes apart"),
        ({}, "to tell bacterial, normal and viral apart"),
    ],
)
def test_headline_says_what_was_done(make_run, options, said):
    assert said in headline(RunResults.read(make_run(**options)).summary)


def test_without_test_images_the_headline_says_by_what_it_was_judged(make_run):
    def forget(summary):
        summary["test"] = None
        for site in summary["sites"].values():
            site["test"] = None

    run = make_run(change=forget)
    assert "validation images, by which it was also chosen" in page(run).text
    assert "the test images were looked at once" not in page(run).text


@pytest.mark.parametrize(("images", "said"), [(60, "the test images were not touched"), (0, "there are no test images")])
def test_a_run_that_its_search_ended_early_says_why_there_is_no_test(make_run, images, said):
    def prune(summary):
        summary.update(status="pruned", test=None)
        for site in summary["sites"].values():
            site["test"] = None
        for site in summary["data"]["counts"]["test"].values():
            site.update(dict.fromkeys(site, images))

    text = page(make_run(change=prune)).text
    assert said in text
    assert ("there are no test images" in text) == (images == 0)
    assert "Ended early by the search that it is a trial of" in text


def test_a_run_without_any_evaluation_still_has_a_page(make_run):
    assert "It was not evaluated." in page(make_run(change=lambda s: s.update(test=None, validation=None, worst_site=None))).text


def test_faults_and_their_absence(make_run):
    text = page(make_run("faulty")).text
    assert "1 fault: the site was left out" in text
    assert "the worker died" in text
    assert "None: every site delivered" in page(make_run("sound", mode="pooled")).text


def test_skipped_files_counts_and_settings_are_there(make_run):
    text = page(make_run(change=lambda s: s["data"].update(skipped=["ward/x.png", "ward/y.png"]))).text
    assert "2 files could not be read and were left out" in text
    assert "ward/y.png" in text
    assert re.search(r"all sites\s+train\s+180\s+180\s+180\s+540", text)
    assert "Images a batch at each site." in text
    assert "2.14.1" in text


def test_baseline_is_that_of_the_most_frequent_class(make_run):
    def skew(summary):
        for name, support in (("bacterial", 20), ("normal", 100), ("viral", 40)):
            summary["test"]["per_class"][name]["support"] = support

    assert (
        "always answering “normal”, the most frequent class, would give 62.5 % accuracy, 33.3 % balanced"
        in page(make_run(change=skew)).text
    )


def test_stopped_runs_say_so(make_run):
    assert "Stopped early" in page(make_run(change=lambda s: s.update(status="stopped"))).text
    assert "Stopped early" not in page(make_run("whole")).text


def test_constant_learning_rate_is_a_sentence(make_run):
    assert "Learning rate 0.001 throughout." in page(make_run(rate=lambda round_: 1e-3)).text


def test_a_thousand_sites_stay_one_page(make_run):
    run = make_run(sites=[f"s{i:04d}" for i in range(1000)], rounds=2)
    text = render_report(RunResults.read(run))
    assert len(text) < 400_000
    assert "the 980 sites with better MCC are in summary.json" in Page(text).text


def test_an_unfinished_run_has_no_report(make_run):
    run = make_run()
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        write_report(run)
    assert not (run / "report.html").exists()
