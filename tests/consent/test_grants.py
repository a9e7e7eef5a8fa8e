from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

import pytest
import yaml
from syft_perms import SyftPermContext

from primia.consent import grants as consent
from primia.consent.datasets import BoxDatasets
from primia.consent.files import read_json
from primia.consent.grants import Grant, Grants, Protection, Terms, Unit
from primia.errors import ConsentError

OWNER = "data@north.example"
STUDY = "study@hospital.example"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ready")
    (folder / "north.arrow").write_text("content")
    (folder / "box").mkdir()
    datasets = BoxDatasets(folder / "box" / "syft", OWNER, "north", ["train", "test"])
    for name in datasets.names:
        datasets.create(name, mock=folder / "north.arrow", private=folder / "north.arrow", synthetic=False)
    return folder / "box"


@pytest.fixture
def box(ready: Path, tmp_path: Path) -> Path:
    shutil.copytree(ready, tmp_path / "box")
    return tmp_path / "box"


def grants(box: Path) -> Grants:
    """The grants as another process would see them."""
    return Grants(box, BoxDatasets(box / "syft", OWNER, "north", ["train", "test"]))


def rules(box: Path, name: str = "train") -> Path:
    return box / "syft" / OWNER / "private" / "syft_datasets" / "v1" / name / "syft.pub.yaml"


def write_rules(path: Path, **access: list[str]) -> None:
    path.write_text(yaml.safe_dump({"rules": [{"pattern": "**", "access": access}]}))


def refused(box: Path, federation: str = STUDY) -> str:
    with pytest.raises(ConsentError) as error:
        grants(box).check(federation)
    assert "\n" not in str(error.value)
    return str(error.value)


def syft_lets_in(box: Path, user: str, name: str = "train") -> bool:
    folder = SyftPermContext(box / "syft" / OWNER).open(f"private/syft_datasets/v1/{name}/")
    return bool(folder.has_read_access(user))


def test_nobody_is_let_in_at_first(box: Path) -> None:
    assert "site 'north' does not take part" in refused(box)
    assert f"federation {STUDY} was never granted; its owner can: primia-ray site grant BOX {STUDY}" in refused(box)
    assert grants(box).all() == ()


def test_a_grant_is_syfts_and_holds_with_its_terms(box: Path) -> None:
    until = consent.today() + timedelta(days=3)
    given = grants(box).grant(STUDY, max_epsilon=8.0, until=until)
    assert grants(box).check(STUDY) == given
    assert (given.max_epsilon, given.until, given.state) == (8.0, until, "granted")
    assert syft_lets_in(box, STUDY, "train") and syft_lets_in(box, STUDY, "test")
    assert not syft_lets_in(box, "other@hospital.example")
    assert "never granted" in refused(box, "other@hospital.example")
    assert yaml.safe_load(rules(box).read_text())["rules"][0]["access"]["read"] == [OWNER, STUDY]


def test_files_of_a_grant_are_closed_and_nothing_else_is_left(box: Path) -> None:
    before = {path.relative_to(box) for path in box.rglob("*")}
    grants(box).grant(STUDY)
    assert {path.relative_to(box) for path in box.rglob("*")} - before == {Path("grants.json"), Path("lock")}
    for path in (box / "grants.json", rules(box), rules(box, "test")):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_revoke_holds_from_the_next_check_of_the_same_object(box: Path) -> None:
    seen_by_worker = grants(box)
    grants(box).grant(STUDY)
    grants(box).grant("second@hospital.example")
    seen_by_worker.check(STUDY)
    revoked = grants(box).revoke(STUDY)
    with pytest.raises(ConsentError, match=f"was revoked at {revoked.revoked}".replace("+", r"\+")):
        seen_by_worker.check(STUDY)
    assert not syft_lets_in(box, STUDY)
    assert seen_by_worker.check("second@hospital.example").max_epsilon is None


def test_a_second_grant_replaces_the_terms_and_a_revoke(box: Path) -> None:
    grants(box).grant(STUDY, max_epsilon=8.0)
    grants(box).revoke(STUDY)
    assert grants(box).revoke(STUDY).state == "revoked"
    grants(box).grant(STUDY, max_epsilon=2.0)
    assert grants(box).check(STUDY).max_epsilon == 2.0
    assert [grant.federation for grant in grants(box).all()] == [STUDY]
    assert yaml.safe_load(rules(box).read_text())["rules"][0]["access"]["read"].count(STUDY) == 1


def test_a_grant_ends_with_its_last_day(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grants(box).grant(STUDY, until=consent.today())
    grants(box).check(STUDY)
    tomorrow = consent.today() + timedelta(days=1)
    monkeypatch.setattr(consent, "today", lambda: tomorrow)
    assert f"was granted until {tomorrow - timedelta(days=1)}" in refused(box)
    assert grants(box).all()[0].state == "expired"


def test_terms_without_meaning_are_refused(box: Path) -> None:
    with pytest.raises(ConsentError, match="until 2020-01-01 is over already"):
        grants(box).grant(STUDY, until=date(2020, 1, 1))
    for cap in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConsentError, match="a cap on epsilon"):
            grants(box).grant(STUDY, max_epsilon=cap)
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(ConsentError, match="a cap at delta"):
            grants(box).grant(STUDY, max_epsilon=1.0, delta=delta)
    for pinned, partners in ((-1, ()), (2, ("a",)), (0, ("north",)), (0, ("a/b",))):
        with pytest.raises(ConsentError):
            grants(box).grant(STUDY, pinned=pinned, partners=partners)
    assert grants(box).all() == ()
    assert grants(box).all() == ()


@pytest.mark.parametrize("name", ["*", "*@hospital.example", "USER", "{{.UserEmail}}", "study", "Study@hospital.example"])
def test_what_is_not_one_federation_is_neither_granted_nor_let_in_nor_revoked(box: Path, name: str) -> None:
    for method in (grants(box).grant, grants(box).check, grants(box).revoke):
        with pytest.raises(ConsentError, match="names no single federation"):
            method(name)
    assert not (box / "grants.json").exists()


def test_the_owner_is_no_federation_though_syft_lets_it_do_all(box: Path) -> None:
    assert syft_lets_in(box, OWNER)
    for method in (grants(box).grant, grants(box).check):
        with pytest.raises(ConsentError, match="is the owner of site 'north'"):
            method(OWNER)


@pytest.mark.parametrize("pattern", ["*", "*@hospital.example", "study@hospital.*", "USER", "?????@hospital.example"])
@pytest.mark.parametrize("granted", [False, True])
def test_a_pattern_for_many_lets_in_nobody_though_syft_would_accept_it(box: Path, pattern: str, granted: bool) -> None:
    if granted:
        grants(box).grant(STUDY)
    for name in ("train", "test"):
        write_rules(rules(box, name), read=[OWNER, STUDY, pattern] if granted else [OWNER, pattern])
    assert syft_lets_in(box, STUDY)
    assert f"{rules(box, 'train')}: lets in {pattern!r}, which names no single federation" in refused(box)


def test_one_bad_file_of_many_is_enough_and_is_named(box: Path) -> None:
    grants(box).grant(STUDY)
    write_rules(rules(box, "test"), read=[OWNER, STUDY, "*"])
    assert str(rules(box, "test")) in refused(box)
    with pytest.raises(ConsentError, match="nobody is let in until then"):
        grants(box).grant("second@hospital.example")


@pytest.mark.parametrize("level", ["write", "admin"])
def test_rights_to_write_are_refused(box: Path, level: str) -> None:
    write_rules(rules(box), read=[OWNER], **{level: [STUDY]})
    assert syft_lets_in(box, STUDY)
    assert f"lets {STUDY} write, where only readers belong" in refused(box)


@pytest.mark.parametrize(
    "content",
    [
        {"rules": [{"pattern": "{{.UserEmail}}/**", "access": {"read": ["USER"]}}]},
        {"rules": [{"pattern": "**", "access": {"read": [OWNER]}}, {"pattern": "*.arrow", "access": {"read": ["*"]}}]},
        {"rules": [{"pattern": "**", "access": {"read": [OWNER]}}], "terminal": True},
        {"rules": []},
    ],
)
def test_other_rules_than_one_for_the_whole_dataset_are_refused(box: Path, content: object) -> None:
    grants(box).grant(STUDY)
    rules(box).write_text(yaml.safe_dump(content))
    assert "holds other rules than one for all files" in refused(box)


@pytest.mark.parametrize("content", ["rules: [", "rules: 3", "- x", "rules:\n- access: {read: [{a: b}]}"])
def test_a_file_that_cannot_be_read_is_named(box: Path, content: str) -> None:
    rules(box).write_text(content)
    assert f"{rules(box)}: cannot be read" in refused(box)


@pytest.mark.parametrize("half", ["private", "public"])
def test_a_file_of_aliases_of_aliases_is_refused_at_once(box: Path, half: str) -> None:
    """The attack: thirty lines that stand for 9^30 values, in a box that somebody gave away to be looked at."""
    laughs = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 31))]
    path = box / "syft" / OWNER / half / "syft_datasets" / "v1" / "train" / "syft.pub.yaml"
    path.write_text("\n".join([*laughs, "rules: *a30"]))
    begun = perf_counter()
    said = refused(box)
    assert f"{path}: cannot be read (holds an anchor, which does not belong there)" in said and len(said) < 500
    assert perf_counter() - begun < 5


@pytest.mark.parametrize("above", ["", "private", "private/syft_datasets/v1"])
def test_a_permission_file_higher_up_is_refused(box: Path, above: str) -> None:
    """Syft would write a grant there, or obey it instead of the dataset's own where it is terminal."""
    grants(box).grant(STUDY)
    path = box / "syft" / OWNER / above / "syft.pub.yaml"
    path.write_text(yaml.safe_dump({"rules": [{"pattern": "**", "access": {"read": ["*"]}}], "terminal": True}))
    assert syft_lets_in(box, "anybody@else.example")
    assert f"{path}: a permission file where none belongs" in refused(box)
    with pytest.raises(ConsentError, match="where none belongs"):
        grants(box).grant("second@hospital.example")


def test_a_missing_permission_file_is_named_and_not_replaced_by_one_higher_up(box: Path) -> None:
    grants(box).grant(STUDY)
    rules(box).unlink()
    assert f"{rules(box)}: missing" in refused(box)
    with pytest.raises(ConsentError, match="missing"):
        grants(box).grant(STUDY)
    assert not rules(box).exists() and not (rules(box).parent.parent / "syft.pub.yaml").exists()


def test_a_grant_in_syfts_files_alone_has_no_terms_and_does_not_count(box: Path) -> None:
    context = SyftPermContext(box / "syft" / OWNER)
    for name in ("train", "test"):
        context.open(f"private/syft_datasets/v1/{name}/").grant_read_access(STUDY)
    assert f"{STUDY} stands in Syft's permission files, but not in grants.json" in refused(box)


def test_a_revoke_in_syft_alone_of_one_dataset_counts(box: Path) -> None:
    grants(box).grant(STUDY)
    SyftPermContext(box / "syft" / OWNER).open("private/syft_datasets/v1/test/").revoke_read_access(STUDY)
    assert "is missing from syft.pub.yaml of a dataset: revoked there" in refused(box)


def test_what_was_revoked_stays_so_where_a_permission_file_is_put_back(box: Path) -> None:
    grants(box).grant(STUDY)
    kept = {name: rules(box, name).read_text() for name in ("train", "test")}
    grants(box).revoke(STUDY)
    for name, content in kept.items():
        rules(box, name).write_text(content)
    assert "was revoked at" in refused(box)


def test_a_revoke_counts_even_where_the_permission_file_is_beyond_repair(box: Path) -> None:
    grants(box).grant(STUDY)
    before = rules(box).read_text()
    write_rules(rules(box), read=["*"])
    with pytest.raises(ConsentError, match="lets in"):
        grants(box).revoke(STUDY)
    rules(box).write_text(before)
    assert "was revoked at" in refused(box)


def test_only_what_was_granted_can_be_revoked(box: Path) -> None:
    grants(box).grant(STUDY)
    with pytest.raises(ConsentError, match=f"north' never granted second@hospital.example; its grants: {STUDY}"):
        grants(box).revoke("second@hospital.example")


def test_a_write_that_breaks_off_leaves_the_permission_file_whole(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rules(box).read_text()

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(consent, "write_private", killed)
    with pytest.raises(KeyboardInterrupt):
        grants(box).grant(STUDY)
    assert rules(box).read_text() == before
    assert "is missing from syft.pub.yaml" in refused(box)


def test_processes_that_grant_at_once_lose_nothing(box: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from primia.consent.datasets import BoxDatasets; from primia.consent.grants import Grants\n"
        f"box = Path(sys.argv[1]); grants = Grants(box, BoxDatasets(box / 'syft', {OWNER!r}, 'north', ['train', 'test']))\n"
        "for number in range(3): grants.grant(f'{sys.argv[2]}{number}@hospital.example')"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(box), name]) for name in "ab"]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    expected = {f"{name}{number}@hospital.example" for name in "ab" for number in range(3)}
    assert {grant.federation for grant in grants(box).all()} == expected
    for name in ("train", "test"):
        assert set(yaml.safe_load(rules(box, name).read_text())["rules"][0]["access"]["read"]) == expected | {OWNER}
    for federation in expected:
        grants(box).check(federation)


@pytest.mark.parametrize("require", ['"none"', "null", "[]", "{}"])
def test_protection_without_meaning_lets_in_nobody(box: Path, require: str) -> None:
    grants(box).grant(STUDY)
    path = box / "grants.json"
    path.write_text(path.read_text().replace('"secure"', require))
    assert f"grants.json: the terms of {STUDY} cannot be read (require" in refused(box)


@pytest.mark.parametrize("terms", ["{}", '{"granted": "x", "max_epsilon": "much", "until": null, "revoked": null}', "7"])
def test_damaged_terms_let_in_nobody(box: Path, terms: str) -> None:
    grants(box).grant(STUDY)
    (box / "grants.json").write_text(f'{{"{STUDY}": {terms}}}')
    assert f"grants.json: the terms of {STUDY} cannot be read" in refused(box)


def test_terms_are_kept_as_plain_json(box: Path) -> None:
    given = grants(box).grant(STUDY, max_epsilon=3.5, delta=1e-6, unit="image", partners=("south",), pinned=1, first_contact=True)
    assert read_json(box / "grants.json") == {
        STUDY: {
            "granted": given.granted,
            "max_epsilon": 3.5,
            "delta": 1e-6,
            "unit": "image",
            "until": None,
            "revoked": None,
            "require": "secure",
            "partners": ["south"],
            "pinned": 1,
            "first_contact": True,
        }
    }
    assert grants(box).check(STUDY) == given


def test_a_grant_of_an_earlier_version_reads_as_the_defaults(box: Path) -> None:
    given = grants(box).grant(STUDY, max_epsilon=2.0)
    terms = {"granted": given.granted, "max_epsilon": 2.0, "until": None, "revoked": None, "require": "secure"}
    (box / "grants.json").write_text(json.dumps({STUDY: terms}))
    assert grants(box).check(STUDY) == given == Grant(STUDY, given.granted, 2.0)
    assert (given.delta, given.unit, given.partners, given.pinned, given.first_contact) == (None, "patient", (), 0, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("delta", value) for value in (0.0, 1.0, "x", "nan", True)],
        *[("max_epsilon", value) for value in ("nan", "inf", float("nan"), int("9" * 350), -1, 0, [1], "2.0", True)],
        *[("until", value) for value in (0, 5, "", False, "2027-13-01", "20270101", "2027-W01-1", [])],
        *[("revoked", value) for value in (5, [1], 0, "", False, [], {}, "yesterday", "2026-01-02", "2026-01-02\x1b03:04:05")],
        *[("granted", value) for value in (5, None, "", "x" * 1000, "[/x]", "2026-13-02T03:04:05", "2026-01-02T03:04:05\n")],
        *[("partners", value) for value in (3, "abc", [[1]], None, [""], {"a": 1})],
        *[("pinned", value) for value in ("x", None, 1.9, [1], -1, True)],
        *[("unit", value) for value in ("site", None, {})],
        *[("first_contact", value) for value in ("yes", 1, None)],
        ("another", 1),
    ],
)
def test_terms_that_say_nothing_let_in_nobody(box: Path, key: str, value: object) -> None:
    grants(box).grant(STUDY, max_epsilon=2.0)
    terms = read_json(box / "grants.json")
    terms[STUDY][key] = value
    (box / "grants.json").write_text(json.dumps(terms))
    said = refused(box)
    assert f"grants.json: the terms of {STUDY} cannot be read ({key}" in said or "cannot be read (NaN" in said
    assert said.isprintable() and "_Written" not in said


def test_a_name_that_is_no_federation_has_no_terms(box: Path) -> None:
    grants(box).grant(STUDY)
    (box / "grants.json").write_text(json.dumps({"*\n": read_json(box / "grants.json")[STUDY]}))
    assert "grants.json: the terms of * cannot be read" in refused(box)


def test_a_cap_is_at_the_grants_delta_and_for_its_unit(box: Path) -> None:
    limit = grants(box).grant(STUDY, max_epsilon=2.0).limit(1000)
    assert limit is not None and (limit.epsilon, limit.delta, limit.unit) == (2.0, 1e-5, "patient")
    limit = grants(box).grant(STUDY, max_epsilon=2.0, delta=1e-7, unit="image").limit(1000)
    assert limit is not None and (limit.delta, limit.unit) == (1e-7, "image")
    assert grants(box).grant(STUDY).limit(1000) is None


@pytest.mark.parametrize("unit", ["patient", "image"])
def test_a_cap_takes_runs_of_its_own_unit_only(box: Path, unit: Unit) -> None:
    grant = grants(box).grant(STUDY, max_epsilon=2.0, unit=unit)
    other = "image" if unit == "patient" else "patient"
    grant.check_unit(unit)
    with pytest.raises(
        ConsentError, match=rf"for each {unit}, but this run has privacy\.unit = {other}.*set privacy\.unit = {unit}, or .*--unit {other}"
    ):
        grant.check_unit(other)
    for nothing in ("none", "site"):
        with pytest.raises(ConsentError, match=rf"set privacy\.unit = {unit}$"):
            grant.check_unit(nothing)
    grants(box).grant(STUDY).check_unit("none")


def test_masked_sums_are_with_those_whom_the_owner_knows_and_wants(box: Path) -> None:
    plain = grants(box).grant(STUDY)
    plain.check_partners({"a", "b"}, {"a", "b"}, {"a", "b", "c"})
    for by_owner in (set[str](), {"a"}):
        with pytest.raises(ConsentError, match=r"whose key the owner has not pinned: .*--first-contact"):
            plain.check_partners({"a", "b"}, {"a", "b"}, by_owner)
    grants(box).grant(STUDY, first_contact=True).check_partners({"a", "b"}, {"a", "b"}, set())
    named = grants(box).grant(STUDY, partners=("a", "b"))
    named.check_partners({"a"}, {"a"}, {"a", "b", "c"})
    with pytest.raises(ConsentError, match="with c, but is granted sums with a, b only"):
        named.check_partners({"a", "c"}, {"a", "c"}, {"a", "b", "c"})
    with pytest.raises(ConsentError, match="has not pinned"):
        named.check_partners({"a"}, {"a"}, set())
    some = grants(box).grant(STUDY, pinned=2, first_contact=True)
    some.check_partners({"a", "b", "c"}, {"a", "b"}, {"a", "b"})
    for met, by_owner in (({"a", "b", "c"}, {"a"}), ({"a", "c"}, {"a", "b"})):
        with pytest.raises(ConsentError, match="with 1 other sites that the owner has pinned, but is granted sums with at least 2"):
            some.check_partners({"a", "b", "c"}, met, by_owner)


@pytest.mark.parametrize(
    ("terms", "by_owner", "enough"),
    [
        ({}, "", False),
        ({}, "a", True),
        ({"first_contact": True}, "", True),
        ({"partners": ("b",)}, "a", False),
        ({"partners": ("b",)}, "ab", True),
        ({"pinned": 2}, "a", False),
        ({"pinned": 2, "first_contact": True}, "a", False),
        ({"pinned": 2}, "ab", True),
    ],
)
def test_a_masked_sum_needs_somebody_whom_the_owner_knows(box: Path, terms: Terms, by_owner: str, enough: bool) -> None:
    grant = grants(box).grant(STUDY, **terms)
    if enough:
        grant.check_known(by_owner)
        return
    with pytest.raises(ConsentError, match=r"^a masked sum needs [12] other site\(s\) whose keys the owner has pinned, [01] are: "):
        grant.check_known(by_owner)


WAYS = {
    "secure": {"secure": True, "sealed": False},
    "sealed": {"secure": False, "sealed": True},
    "clear": {"secure": False, "sealed": False},
}


@pytest.mark.parametrize(
    ("require", "allowed"), [("secure", {"secure"}), ("sealed", {"secure", "sealed"}), ("any", {"secure", "sealed", "clear"})]
)
def test_a_grant_asks_for_protection(box: Path, require: Protection, allowed: set[str]) -> None:
    grants(box).grant(STUDY, require=require)
    grant = grants(box).check(STUDY)
    assert grant.require == require
    for way, arguments in WAYS.items():
        if way in allowed:
            grant.check_protection(**arguments)
            continue
        with pytest.raises(ConsentError) as error:
            grant.check_protection(**arguments)
        enough = {"sealed": "sealed", "clear": "any"}[way]
        assert f"federation {STUDY} would get updates" in str(error.value) and "\n" not in str(error.value)
        assert str(error.value).endswith(f"primia-ray site grant BOX {STUDY} --require {enough}")


def test_a_grant_of_before_asks_for_the_most(box: Path) -> None:
    grants(box).grant(STUDY, require="any")
    terms = read_json(box / "grants.json")
    del terms[STUDY]["require"]
    (box / "grants.json").write_text(json.dumps(terms))
    assert grants(box).check(STUDY).require == "secure"


def test_a_revoke_keeps_what_was_asked_for(box: Path) -> None:
    grants(box).grant(STUDY, require="sealed")
    assert grants(box).revoke(STUDY).require == "sealed" and grants(box).all()[0].require == "sealed"
