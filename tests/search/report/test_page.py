from __future__ import annotations

import base64
import json
import re
import runpy
import time
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from primia.config.settings import SearchSettings
from primia.errors import RunError
from primia.search.folder import SweepFolder
from primia.search.records import State, undominated
from primia.search.report.page import ROW_LIMIT, SweepResults, changes, headline, render_sweep, state_text, write_sweep_report

sweeps = runpy.run_path(str(Path(__file__).parents[1] / "sweeps.py"))
records, trial = sweeps["records"], sweeps["trial"]
FEW = "".join(
    line for line in sweeps["SPACE"].splitlines(keepends=True) if line.startswith(("training.learning_rate", "training.optimizer"))
)
make_sweep = partial(sweeps["make_sweep"], space=FEW)
"""With two pictures of one setting each, to be fast."""

PRIVATE = sweeps["GIVEN"] | {"privacy.unit": "image", "privacy.noise_multiplier": 1.0, "privacy.validation": "public"}
VOID = {"meta", "img", "br", "link", "input", "wbr"}
PICTURES = {
    "history": "Validation MCC of each trial",
    "curves": "Validation MCC by round",
    "importance": "Importance of each setting",
    "parallel": "Parallel coordinates",
    "slices": "Validation MCC against training.learning_rate",
}


class Page(HTMLParser):
    """Text, tags and attributes; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.sources, self.links, self.pictures, self.rows = [], [], [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.sources += [found["src"]] if "src" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.pictures += [found["alt"]] if tag == "img" else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def shown(self):
        """Which of PICTURES there are."""
        return {name for name, begins in PICTURES.items() if any(alt.startswith(begins) for alt in self.pictures)}

    @property
    def trials(self):
        """Numbers in the trials' table, in their order."""
        return [int(row[0]) for row in self.rows if len(row) > 6 and row[0].isdigit()]


def page(sweep):
    return Page(render_sweep(SweepFolder(sweep)))


def told(sweep):
    return headline(SweepResults.read(SweepFolder(sweep)))


def named(name):
    return lambda document: document.update(name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a finished sweep of 20 trials."""
    return page(sweeps["make_sweep"](tmp_path_factory.mktemp("sweeps") / "s"))


def test_written_into_the_sweep_folder(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    path = write_sweep_report(sweep)
    assert path == sweep / "report.html"
    assert path.read_text() == render_sweep(SweepFolder(sweep))


def test_no_sweep_has_no_page(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(RunError, match="not a sweep folder"):
        write_sweep_report(tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())


def test_a_summary_changed_by_hand_is_one_line(tmp_path):
    sweep = make_sweep(tmp_path / "s", change=named({"best": "the third"}))
    with pytest.raises(RunError, match=r"sweep\.json cannot be read \(best: Input should be a valid integer.*\); was it changed") as raised:
        write_sweep_report(sweep)
    assert "\n" not in str(raised.value)


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(whole):
    assert whole.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in whole.sources)
    assert not {"script", "link", "iframe", "object", "svg"} & set(whole.tags)


def test_all_pictures_of_a_whole_sweep_are_there(whole):
    assert whole.shown == set(PICTURES)


def test_headline_counts_the_trials_and_names_the_best(tmp_path):
    said = told(make_sweep(tmp_path / "s"))
    assert "20 trials: 15 trained to the end, 3 ended early (pruned) and 2 failed." in said
    assert "Each is a federated training of convnet over up to 225 rounds." in said
    assert re.search(r"The best is trial 5, with a validation MCC of 0\.8\d\d\.", said)
    assert "It took 1 h 15 min, with" in said


def test_the_best_is_held_against_the_settings_as_given(tmp_path):
    made = records(20)
    gain = made[5].value - made[1].value
    assert f"That is {gain:.3f} more than the settings as given (trial 1)" in told(make_sweep(tmp_path / "s", made))
    assert "after 29 and 25 rounds." in told(tmp_path / "s")


def test_trials_of_which_one_was_ended_early_are_compared_at_the_same_part(tmp_path):
    made = records(20)
    made[1] = replace(made[1], state=State.PRUNED, curve=made[1].curve[:10], rounds=10, value=max(mcc for _, mcc in made[1].curve[:10]))
    comparison = SweepResults.read(SweepFolder(make_sweep(tmp_path / "s", made))).compare_with_given()
    assert made[5].planned_rounds == 29
    assert comparison.best == max(mcc for round_, mcc in made[5].curve if round_ <= 29 * 10 / 25)
    assert comparison.given == made[1].value
    assert comparison.when == "after 12 and 10 rounds, the same part of each"


def test_equal_rounds_are_said_once(tmp_path):
    made = {1: records(1)[1]}
    made[2] = replace(made[1], number=2, parameters=made[1].parameters | {"training.learning_rate": 1e-3}, value=0.9)
    assert "after 25 rounds." in told(make_sweep(tmp_path / "s", made))


def test_settings_as_given_that_are_the_best_are_said_to_be(tmp_path):
    made = records(20)
    made[1] = replace(made[1], state=State.COMPLETE, value=0.99)
    assert "Those are the settings as given: no other trial did better." in told(make_sweep(tmp_path / "s", made))


def test_settings_as_given_without_a_result_are_said_to_have_none(tmp_path):
    made = records(20)
    made[1] = replace(made[1], state=State.FAILED, value=None, curve=())
    assert "The settings as given (trial 1) came to no result." in told(make_sweep(tmp_path / "s", made))


def test_without_a_trial_of_the_settings_as_given_nothing_is_compared(tmp_path):
    assert "as given" not in told(make_sweep(tmp_path / "s", change=named({"given": None})))


def test_the_honest_number_is_the_test_mcc(tmp_path):
    text = page(make_sweep(tmp_path / "s", test_mcc=0.65432)).text
    assert "The validation MCC of the best of 18 trials is optimistic" in text
    assert "MCC on test images, by which nothing was chosen: 0.654." in text


@pytest.mark.parametrize("missing", ["value", "summary"])
def test_without_a_test_mcc_that_is_said(tmp_path, missing):
    sweep = make_sweep(tmp_path / "s", test_mcc=None)
    if missing == "summary":
        for file in sweep.glob("trials/*/summary.json"):
            file.unlink()
    assert "There is no test MCC of this trial" in page(sweep).text


def test_synthetic_images_are_said_where_they_are(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    assert "Synthetic images." in page(sweep).text
    next(sweep.glob("trials/*/summary.json")).write_text(json.dumps({"synthetic": False, "test": {"mcc": 0.5}}))
    assert "Synthetic images." not in page(sweep).text


def test_best_settings_that_differ_are_listed_and_how_to_train_them(tmp_path):
    sweep = make_sweep(tmp_path / "my sweep")
    rows = [row for row in page(sweep).rows if len(row) == 3]
    assert ["training.batch_size", "16", "64"] in rows
    assert ["training.class_weights", "no", "yes"] in rows
    assert "training.optimizer" not in [row[0] for row in rows if row[1] == row[2]]
    assert f"primia-ray train --config '{sweep}/best.ini'" in page(sweep).text


def test_changes_leave_out_what_is_as_given(tmp_path):
    sweep = SweepResults.read(SweepFolder(make_sweep(tmp_path / "s")))
    assert changes(sweep.records[0], sweep.settings) == []
    assert ("training.optimizer", "adam", "sgd") in changes(
        next(record for record in sweep.records if record.parameters["training.optimizer"] == "sgd"), sweep.settings
    )


def test_trials_are_listed_best_first_and_failures_last(tmp_path):
    made = records(20)
    listed = page(make_sweep(tmp_path / "s", made)).trials
    assert listed[0] == 5
    groups = [made[number].state for number in listed]
    assert groups == sorted(groups, key=[State.COMPLETE, State.PRUNED, State.FAILED].index)
    values = [made[number].value for number in listed if made[number].state == State.COMPLETE]
    assert values == sorted(values, reverse=True)
    assert set(listed) == set(made)


def test_a_row_has_the_trials_numbers(tmp_path):
    made = records(20)
    made[2] = replace(made[2], value=0.54321, rounds=7, planned_rounds=25, seconds=75.0)
    row = next(row for row in page(make_sweep(tmp_path / "s", made)).rows if row[0] == "2")
    assert row[1:5] == ["pruned", "0.543", "7 of 25", "1 min 15 s"]
    assert f"{made[2].parameters['training.learning_rate']:.4g}" in row


def test_an_inactive_parameter_is_a_dash(whole):
    heading = next(row for row in whole.rows if "state" in row)
    assert next(row for row in whole.rows if row[0] == "1")[heading.index("training.momentum")] == "–"


def test_causes_are_told(whole):
    assert whole.text.count("at hospital-b in round 3, batch 4: the loss is not finite (nan)") == 2


def test_links_lead_to_reports_that_exist(whole):
    assert whole.links == ["trials/0005/report.html"]


@pytest.mark.parametrize("folder", ["", "javascript:alert(1)#?"])
def test_links_cannot_lead_elsewhere(tmp_path, folder):
    made = records(3)
    sweep = make_sweep(tmp_path / "s", made | {2: replace(made[2], folder=folder)})
    with pytest.raises(RunError, match="trial 2 has no run folder of this sweep"):
        render_sweep(SweepFolder(sweep))


def test_names_of_users_cannot_bring_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    made = {number: replace(record, cause=evil) for number, record in records(20).items()}
    privacy = sweeps["PRIVACY"] | {"sentence": evil, "unit": evil, "sites": {evil: 1.0}, "accountant": evil}
    document = {"name": evil, "status": evil, "reason": evil, "privacy": privacy, "versions": {evil: evil}, "started": evil}
    parsed = page(make_sweep(tmp_path / "s", made, search="scheduler = pbt\n", change=named(document)))
    assert "script" not in parsed.tags
    assert parsed.text.count(evil) > 20
    assert not any("<script" in base64.b64decode(source.split(",")[1]).decode() for source in parsed.sources)


def test_a_sweep_under_way_has_a_page(tmp_path):
    made = records(8)
    rng = sweeps["np"].random.Generator(sweeps["np"].random.Philox(2))
    made[9] = trial(9, sweeps["draw"](rng), rng, part=0.4, state=State.RUNNING)
    made[10] = trial(10, sweeps["draw"](rng), rng, state=State.RUNNING, value=None, curve=(), rounds=0, seconds=0.0)
    sweep = make_sweep(tmp_path / "s", made, finished=False)
    parsed = page(sweep)
    assert "Not finished" in parsed.text
    assert "2 under way or cut off" in told(sweep)
    assert "The best is trial 5" in told(sweep)
    assert "than the settings as given (trial 1)" in told(sweep)
    assert "So far it has trained for" in told(sweep) and "It took" not in told(sweep)
    assert "When the sweep ends, best.ini has them." in parsed.text
    assert parsed.shown == set(PICTURES) - {"importance"}
    assert parsed.trials[-2:] == [4, 7]


def test_trials_that_were_cut_off_are_unfinished_once_the_sweep_is_over(tmp_path):
    made = records(8)
    made[8] = replace(made[8], state=State.RUNNING)
    sweep = make_sweep(tmp_path / "s", made, change=named({"status": "interrupted"}))
    parsed = page(sweep)
    assert "1 unfinished" in told(sweep) and "under way" not in parsed.text
    assert next(row for row in parsed.rows if row[0] == "8")[1] == "unfinished"
    SweepFolder(sweep).begin(SearchSettings())
    assert next(row for row in page(sweep).rows if row[0] == "8")[1] == "running"
    assert state_text(made[1], SweepFolder(sweep).result()) == "complete"


@pytest.mark.parametrize("state", ["nothing", "begun"])
def test_a_sweep_that_has_just_begun_has_a_page(tmp_path, state):
    begun = {1: replace(records(1)[1], state=State.RUNNING, value=None, curve=())}
    parsed = page(make_sweep(tmp_path / "s", {} if state == "nothing" else begun, finished=False))
    assert ("No trial has begun yet." if state == "nothing" else "None has come to a result yet.") in parsed.text
    assert not parsed.pictures


def test_a_sweep_that_goes_on_says_nothing_that_an_earlier_part_came_to(tmp_path):
    change = named({"status": "stopped", "reason": "search.target was reached", "privacy": sweeps["PRIVACY"]})
    sweep = make_sweep(tmp_path / "s", given=PRIVATE, change=change)
    assert sweeps["PRIVACY"]["sentence"] in page(sweep).text
    SweepFolder(sweep).begin(SearchSettings())
    parsed = page(sweep)
    assert "Not finished" in parsed.text and "search.target" not in parsed.text
    assert "So far it has trained for" in parsed.text and "It took" not in parsed.text
    assert "What all trials together have spent at each site is stated when the sweep ends." in parsed.text
    assert "epsilon over all trials" not in parsed.text and sweeps["PRIVACY"]["sentence"] not in parsed.text
    assert "primia-ray train --config" not in parsed.text, "best.ini is that of the earlier part"


def test_a_sweep_of_one_trial_has_a_page(tmp_path):
    parsed = page(make_sweep(tmp_path / "s", records(1)))
    assert "1 trial: 1 trained to the end. It is a federated training" in parsed.text
    assert "Its validation MCC is optimistic" in parsed.text
    assert "They do not differ from the settings as given." in parsed.text
    assert parsed.shown == {"history", "curves"}


def test_a_sweep_of_failures_has_a_page(tmp_path):
    made = {number: replace(record, state=State.FAILED, value=None, curve=(), cause="no memory") for number, record in records(3).items()}
    parsed = page(make_sweep(tmp_path / "s", made))
    assert "None has come to a result yet." in parsed.text
    assert parsed.text.count("no memory") == 3
    assert not parsed.pictures


@pytest.mark.parametrize("searched", [False, True])
def test_trials_that_failed_before_they_planned_rounds_have_those_of_the_settings(tmp_path, searched):
    made = {1: replace(records(1)[1], state=State.FAILED, value=None, curve=(), rounds=0, planned_rounds=0)}
    given = {"federation.rounds": 33}
    sweep = make_sweep(tmp_path / "s", made, given=given, space=FEW + "federation.rounds = randint(5, 50)\n" * searched)
    assert ("of convnet." if searched else "of convnet over up to 33 rounds.") in told(sweep)


def test_stopped_and_interrupted_sweeps_say_so_and_why(tmp_path, whole):
    stopped = page(make_sweep(tmp_path / "a", change=named({"status": "stopped", "reason": "search.target was reached"}))).text
    assert "Stopped before its last trial: search.target was reached." in stopped
    assert (
        "Interrupted before its last trial; primia-ray tune --resume goes on with it."
        in page(make_sweep(tmp_path / "b", change=named({"status": "interrupted"}))).text
    )
    assert "Stopped" not in whole.text
    assert "Interrupted" not in whole.text


def test_few_complete_trials_make_importance_a_hint(tmp_path, whole):
    made = records(20)
    few = {number: record if number < 10 else replace(record, state=State.PRUNED) for number, record in made.items() if record.value}
    parsed = page(make_sweep(tmp_path / "s", few))
    assert "importance" in parsed.shown
    assert re.search(r"A hint at most: only \d trials were trained to the end. With fewer than 10", parsed.text)
    assert "A hint at most" not in whole.text
    assert "PED-ANOVA" in whole.text


def test_too_few_trials_have_no_importance_and_that_is_said(tmp_path):
    parsed = page(make_sweep(tmp_path / "s", records(6)))
    assert "importance" not in parsed.shown
    assert "Importance is not shown: only 4 trials were trained to the end" in parsed.text


def test_200_trials_are_one_page_in_a_few_seconds(tmp_path):
    sweep = sweeps["make_sweep"](tmp_path / "s", records(200))
    render_sweep(SweepFolder(sweep))  # what is loaded but once is not what is asked here
    begun = time.perf_counter()
    text = render_sweep(SweepFolder(sweep))
    assert time.perf_counter() - begun < 10
    assert len(text) < 3_000_000
    parsed = Page(text)
    assert len(parsed.trials) == ROW_LIMIT
    hidden = re.search(r"Not listed: (.*?); all trials are in sweep.parquet", parsed.text)[1]
    assert sum(map(int, re.findall(r"\d+", hidden))) == 200 - ROW_LIMIT
    assert "20 failed" in hidden


@pytest.mark.parametrize(("objective", "heading", "cost"), [("epsilon", "epsilon", "2.5"), ("bytes", "bytes moved", "2.5 GB")])
def test_second_objective_has_a_front(tmp_path, objective, heading, cost):
    scale = 1e9 if objective == "bytes" else 1.0
    made = {number: replace(record, second=(1.5 + number % 5) * scale) for number, record in records(20).items()}
    chosen = [record.number for record in undominated(list(made.values()))]
    search = f"second_objective = {objective}\nscheduler = none\n"
    parsed = page(make_sweep(tmp_path / "s", made, search=search, change=named({"front": chosen})))
    assert f"Validation MCC against {heading}, with the front" in parsed.pictures
    assert [int(row[0]) for row in parsed.rows if len(row) == 3 and row[0].isdigit()] == chosen
    assert cost in next(row for row in parsed.rows if row[0] == "11" and len(row) > 6)


def test_without_a_second_objective_there_is_no_front(whole):
    assert "front" not in whole.text


def test_a_front_of_a_sweep_under_way_is_that_of_its_trials(tmp_path):
    made = {number: replace(record, second=float(number)) for number, record in records(20).items()}
    search = "second_objective = epsilon\nscheduler = none\n"
    begun = make_sweep(tmp_path / "s", made, search=search, finished=False)
    front = SweepResults.read(SweepFolder(begun)).front
    assert front == undominated(list(made.values()))
    nothing = make_sweep(tmp_path / "t", {1: replace(made[1], second=None)}, search=search, finished=False)
    assert "No trial has both numbers yet." in page(nothing).text


def test_no_complete_trial_beats_one_of_the_front():
    made = [replace(record, second=float(7 * record.number % 13)) for record in records(60).values()]
    front = undominated(made)
    complete = [record for record in made if record.state == State.COMPLETE]
    assert 1 < len(front) < len(complete)
    for record in complete:
        beaten = any(
            other.value >= record.value and other.second <= record.second and (other.value, other.second) != (record.value, record.second)
            for other in complete
        )
        assert (record in front) != beaten


def test_privacy_is_told_for_each_site_with_the_limit(tmp_path):
    change = named({"privacy": sweeps["PRIVACY"], "max_epsilon": 8.0})
    parsed = page(make_sweep(tmp_path / "s", change=change))
    assert sweeps["PRIVACY"]["sentence"] in parsed.text
    assert ["hospital-c", "3.13", "1e-05"] in parsed.rows
    assert ["limit", "8.000", ""] in parsed.rows
    assert "epsilon over all trials 7.25 hospital-a" in parsed.text


def test_a_private_sweep_says_which_model_to_publish_instead_of_training_again(tmp_path):
    sweep = make_sweep(tmp_path / "my sweep", given=PRIVATE)
    said = (
        f"Its own model is in trials/0005 ( primia-ray evaluate '{sweep}/trials/0005' --data DIR ). Training best.ini again spends privacy"
    )
    assert said in page(sweep).text
    assert "primia-ray train" not in page(sweep).text
    assert SweepResults.read(SweepFolder(make_sweep(tmp_path / "open"))).evaluate_command is None


@pytest.mark.parametrize(("search", "private"), [("", True), ("", False), ("second_objective = epsilon\nscheduler = none\n", True)])
def test_trials_of_a_private_sweep_have_their_epsilon_once(tmp_path, search, private):
    made = records(3)
    made[1] = replace(made[1], epsilon={"hospital-a": 1.25, "hospital-b": 2.5}, second=2.5)
    rows = page(make_sweep(tmp_path / "s", made, search=search, given=PRIVATE if private else sweeps["GIVEN"])).rows
    heading = next(row for row in rows if "state" in row)
    assert heading.count("epsilon") == private
    if private:
        cells = {row[0]: row[heading.index("epsilon")] for row in rows if len(row) == len(heading)}
        assert (cells["1"], cells["2"]) == ("2.5", "–")


def test_privacy_without_a_limit_or_none_at_all(tmp_path, whole):
    limitless = page(make_sweep(tmp_path / "a", change=named({"privacy": sweeps["PRIVACY"]})))
    assert "No limit was set" in limitless.text
    assert "without differential privacy" in whole.text


@pytest.mark.parametrize("trials", [0, 8])
def test_privacy_of_a_sweep_under_way_is_stated_when_it_ends(tmp_path, trials):
    made = {number: replace(record, epsilon={"a": 0.5}) for number, record in records(8).items() if number <= trials}
    text = page(make_sweep(tmp_path / "s", made, given=PRIVATE, finished=False)).text
    assert "spent at each site is stated when the sweep ends." in text
    assert "without differential privacy" not in text


def test_a_private_sweep_without_a_statement_is_not_said_to_be_without_privacy(tmp_path):
    text = page(make_sweep(tmp_path / "s", given=PRIVATE)).text
    assert "is not known: no trial came to a statement of it." in text
    assert "without differential privacy" not in text


def test_schedules_of_population_based_training_are_told(tmp_path):
    made = records(20)
    made[6] = replace(made[6], cause="goes on from trial 5 after round 10")
    parsed = page(make_sweep(tmp_path / "s", made, search="scheduler = pbt\n"))
    assert [row[0] for row in parsed.rows if row[-1] == "goes on from trial 5 after round 10" and len(row) == 4] == ["6"]
    assert "Schedules" not in page(make_sweep(tmp_path / "t", made)).text


def test_what_was_searched_is_there(whole):
    rows = whole.rows
    assert ["training.learning_rate", "loguniform(1e-5, 1e-2)", "0.0001"] in rows
    assert ["seed", "1"] in rows
    assert ["optuna", "5.0.0"] in rows
