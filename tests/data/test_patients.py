from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from primia.data import patients
from primia.data.patients import patient_ids
from primia.errors import DataError


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person123_bacteria_45.jpeg", "person123"),
        ("person7_virus_12_1.jpeg", "person7"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0125-0001-0002.jpeg", "IM-0125"),
        ("NORMAL2-IM-0501-0001-0002.jpeg", "IM-0501"),
        ("test/normal/IM-0001-0001.jpeg", "IM-0001"),
    ],
)
def test_auto_knows_the_public_chest_x_rays(name: str, patient: str) -> None:
    assert patient_ids([name], "auto") == [patient]


def test_unknown_names_are_a_patient_each_even_where_folders_repeat_them() -> None:
    files = ["a/normal/scan.png", "b/normal/scan.png"]
    assert patient_ids(files, "auto") == files


def test_file_ignores_known_names() -> None:
    files = ["person1_virus_1.jpeg", "person1_virus_2.jpeg"]
    assert patient_ids(files, "file") == files


def test_expression_finds_its_group_in_the_file_name_only() -> None:
    assert patient_ids(["s9/case12-a.png", "s9/other.png"], r"[a-z](\d+)") == ["12", "s9/other.png"]


def test_expression_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match=r"fits no file name, the first being 'a\.png'"):
        patient_ids(["x/a.png"], r"case(\d+)")


def test_real_chest_x_rays_have_patients_with_several_images(shared_data: Path) -> None:
    files = [path.name for path in (shared_data / "chest_xray").rglob("*.jpeg")]
    patients = patient_ids(files, "auto")
    assert len(files) == 5216
    assert len(set(patients)) == 2635
    assert not set(patients) & set(files)


@pytest.mark.parametrize("pattern", ["((a|aa)+)$", "^(?:a|a?)+(b)$", "(.*.*.*.*.*.*.*)z"])
def test_an_expression_that_goes_back_and_forth_is_given_up(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: settings of a run that somebody else made, and file names that keep their expression busy for ever."""
    monkeypatch.setattr(patients, "_SECONDS", 1)
    begun = monotonic()
    with pytest.raises(DataError, match="takes more than 1 seconds for 2 file names; write it without repeats"):
        patient_ids(["a" * 200 + ".png", "b.png"], pattern)
    assert monotonic() - begun < 20


def test_names_that_are_no_text_have_patients_too() -> None:
    assert patient_ids(["x/p1-\udcff.png", "x/p2-\n.png", "x/q.png"], r"^(p\d)-") == ["p1", "p2", "x/q.png"]
