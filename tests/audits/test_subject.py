from __future__ import annotations

import json
import os

import pytest
import torch

from primia.audits.subject import Budget, Subject
from primia.errors import ConsentError, DataError, ModelError, RunError
from primia.models.registry import build_model


def test_members_are_all_training_images_and_others_the_test_images(subject):
    assert [site.name for site in subject.training_sites] == ["site-1", "site-2", "site-3"]
    assert len(subject.members) == sum(subject.site_images)
    assert 0 < len(subject.others) < len(subject.members)


def test_without_test_images_the_others_are_those_for_validation(make_subject):
    subject = make_subject(data={"test_fraction": 0.0})
    assert len(subject.others) > 0


def test_of_a_site_that_trained_alone_only_its_images_are_members(make_subject, subject):
    alone = make_subject(run={"mode": "local", "site": "site-2"})
    assert [site.name for site in alone.training_sites] == ["site-2"]
    assert len(alone.members) == subject.site_images[1]


def test_the_first_model_is_that_of_the_runs_seed(make_subject):
    subject = make_subject(run={"seed": 7})
    expected = build_model(subject.settings.model, classes=3, channels=1, image_size=16, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(subject.first_model().parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize(
    "federation, epochs",
    [({"rounds": 5, "local_epochs": 2}, 10), ({"rounds": 10, "sync_every_n_batch": 5}, 12), ({"rounds": 1, "sync_every_n_batch": 1}, 1)],
)
def test_epochs_are_passes_over_the_training_images(make_subject, federation, epochs):
    """51 images; 10 rounds of 5 batches of 4 at each of 3 sites see 600."""
    subject = make_subject(federation=federation)
    assert len(subject.members) == 51
    assert subject.epochs == epochs


def test_the_budget_is_that_of_the_site_that_spent_most(make_subject, subject):
    assert subject.budget is None
    sites = {"a": {"epsilon": 2.0, "delta": 0.01}, "b": {"epsilon": 3.5, "delta": 0.02}, "c": {"epsilon": None, "delta": 0.0}}
    assert make_subject(spent={"sites": sites}).budget == Budget(3.5, 0.02)


def test_what_is_no_run_folder_is_said_to_be_none(tmp_path, locate):
    with pytest.raises(RunError, match=r"is not a run folder: it has no config\.ini"):
        Subject.open(tmp_path / "nowhere", locate)


def test_a_run_that_is_not_finished_is_to_be_resumed(make_folder, locate):
    folder = make_folder()
    (folder / "summary.json").unlink()
    with pytest.raises(RunError, match=f"not finished; go on with: primia-ray train --resume {folder}"):
        Subject.open(folder, locate)


def test_a_broken_summary_and_a_missing_model_are_named(make_folder, locate):
    folder = make_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        Subject.open(folder, locate)
    (folder / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json cannot be read"):
        Subject.open(folder, locate)


def test_other_images_than_those_of_the_run_are_refused(make_folder, locate):
    folder = make_folder()
    (folder / "data.json").write_text(json.dumps({"fingerprint": "other"}))
    with pytest.raises(DataError, match="the images are not those that it was trained on"):
        Subject.open(folder, locate)


def test_private_images_that_may_not_be_read_are_their_owners_business(make_folder, locate, monkeypatch):
    folder = make_folder()
    monkeypatch.setattr(os, "access", lambda path, mode: "site-2" not in str(path))
    with pytest.raises(ConsentError, match="the private images of site 'site-2' are not yours to read"):
        Subject.open(folder, locate)


STATEMENT = {
    "epsilon": 1.0, "delta": 1e-5, "unit": "image", "accountant": "rdp", "noise_multiplier": 4.0, "sample_rate": 0.5, "steps": 4,
    "clip": 1.0, "views": 1, "units": 6,
}  # fmt: skip


@pytest.mark.parametrize(
    "privacy",
    [
        *[{"sites": {"site-1": STATEMENT | {key: value}}} for key in STATEMENT for value in ([], -1, 2**70, 1e300) if key != "epsilon"],
        *[{"sites": {"site-1": {key: value for key, value in STATEMENT.items() if key != gone}}} for gone in ("delta", "views", "clip")],
        {"sites": {"site-1": 7}},
        {"sites": [STATEMENT]},
        "none",
    ],
)
def test_a_summary_that_states_what_cannot_be_is_one_clear_error(make_folder, locate, privacy):
    folder = make_folder(spent=privacy)
    with pytest.raises(RunError, match=r"summary\.json cannot be read") as caught:
        Subject.open(folder, locate)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("document", ['{"privacy": {}}', '{"name": []}', "{}"])
def test_a_summary_without_a_name_is_one_clear_error(make_folder, locate, document):
    folder = make_folder()
    (folder / "summary.json").write_text(document)
    with pytest.raises(RunError, match=r"summary\.json cannot be read \(name: "):
        Subject.open(folder, locate)
