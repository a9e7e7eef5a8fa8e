from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from primia.cli.main import app
from primia.consent import mock
from primia.consent.box import SiteBox
from primia.data.shard import Row, ShardHeader, write_shard
from primia.errors import ConsentError, DataError, PrimiaError, PrivacyError, ProtocolError
from primia.privacy.filter import filtered_epsilon
from primia.privacy.ledger import Charge, Ledger
from primia.privacy.spend import Spend

STUDY = "study@hospital.example"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["site", *map(str, words)], env={"COLUMNS": "100"})


def done(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def failed(*words: object) -> PrimiaError:
    error = run(*words).exception
    assert isinstance(error, PrimiaError), error
    assert "\n" not in str(error)
    return error


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed shards of two sites, a box of one and a folder of two boxes."""
    root = tmp_path_factory.mktemp("made")
    for split in ("train", "test"):
        (root / "packed" / split).mkdir(parents=True)
        for site in ("north", "south"):
            header = ShardHeader(site, split, ("cat", "dog"), 1, 8, False, "f")
            rows = [Row(np.zeros((1, 8, 8), np.uint8), int(number > 0), f"p{number // 2}", f"{number}.png") for number in range(7)]
            write_shard(root / "packed" / split / f"{site}.arrow", header, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mock, "LEAST_IMAGES", 8)
        (root / "said-one").write_text(
            done("init", root / "box", "--data", root / "packed", "--site", "north", "--owner", "data@north.example")
        )
        (root / "said-two").write_text(done("init", root / "boxes", "--data", root / "packed"))
    return root


@pytest.fixture
def box(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "box", tmp_path / "box")
    return tmp_path / "box"


@pytest.fixture
def boxes(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "boxes", tmp_path / "boxes")
    return tmp_path / "boxes"


def spend(box: SiteBox, federation: str, round_: int, unit: str = "patient") -> None:
    """Charge the ledger for ten steps."""
    charge = Charge("2026-01-01T00:00:00+00:00", federation, "first", round_, unit, 2.0, 0.1, 10, delta=0.9)
    Ledger(box.ledger).charge(charge, lambda charges: None)


SPENT = filtered_epsilon([Spend(2.0, 0.1, 20)], 8.0, 1e-5)


def test_show_adds_up_what_all_federations_may_spend(box: Path) -> None:
    opened, other, third = SiteBox.open(box), "other@hospital.example", "third@hospital.example"
    done("grant", box, STUDY, "--max-epsilon", "8")
    done("grant", box, other, "--max-epsilon", "2", "--delta", "1e-6")
    for number in (1, 2):
        spend(opened, STUDY, number)
    both = SPENT
    assert f"for each patient: epsilon spent {both:.3f}, may reach 10, at delta 1.1e-05 (" in done("show", box)
    done("revoke", box, STUDY)
    assert f"for each patient: epsilon spent {both:.3f}, may reach {2 + SPENT:.4g}, at delta 1.1e-05 (" in done("show", box)
    done("grant", box, third)
    assert "is not bounded" in done("show", box)
    spend(opened, third, 1, unit="image")
    said = done("show", box)
    assert "for each image: epsilon spent" in said and f"for each patient: epsilon spent {both:.3f}, may reach {2 + SPENT:.4g}" in said
    spend(opened, other, 1, unit="image")
    assert "for each patient: epsilon spent not known" in done("show", box)


def test_a_grant_names_delta_unit_and_partners(box: Path) -> None:
    said = done(
        "grant", box, STUDY, "--max-epsilon", "2.5", "--delta", "1e-7", "--unit", "image", "--with", "b", "--with", "c", "--pinned", 1
    )
    words = (
        "epsilon up to 2.5 over all its runs, at delta 1e-07 for each image, masked sums with b, c (only those whose keys "
        "the owner has pinned, at least 1 of them pinned)"
    )
    assert words in said
    given = SiteBox.open(box).check_grant(STUDY)
    assert (given.delta, given.unit, given.partners, given.pinned, given.first_contact) == (1e-7, "image", ("b", "c"), 1, False)
    assert "masked sums with any sites (keys believed at first contact)" in done("grant", box, STUDY, "--first-contact")
    assert SiteBox.open(box).check_grant(STUDY).first_contact
    assert isinstance(failed("grant", box, STUDY, "--max-epsilon", "1", "--delta", "0.5"), PrivacyError)
    assert run("grant", box, STUDY, "--unit", "site").exit_code == 2


@pytest.mark.parametrize("verb", ["init", "show", "grant", "revoke", "pin"])
def test_every_verb_has_an_example(verb: str) -> None:
    assert f"Example: primia-ray site {verb}" in done(verb, "--help")


def test_init_makes_one_box_or_one_a_site_and_says_what_is_next(made: Path) -> None:
    said = (made / "said-one").read_text()
    assert f"wrote {made / 'box'} (1 site box; nobody is granted anything yet)" in said
    assert f"next: primia-ray site grant {made / 'box'} FEDERATION\n" in said and "trying out" not in said
    assert SiteBox.open(made / "box").public.fingerprint in said
    said = (made / "said-two").read_text()
    assert f"wrote {made / 'boxes'} (2 site boxes" in said and "in reality each hospital makes its own box" in said
    assert f"next: primia-ray site grant {made / 'boxes'} FEDERATION --all\n" in said
    assert "north, south: real images of classes cat, dog, 1 channel(s), 8 pixels" in said


def test_show_tells_the_owner_everything(box: Path) -> None:
    opened = SiteBox.open(box)
    done("grant", box, STUDY, "--max-epsilon", "8", "--until", "2999-12-31")
    for number in (1, 2):
        event = {"purpose": "train", "federation": STUDY, "run": "first", "round": number, "images": 7, "epsilon": number / 4}
        opened.audit({**event, "outcome": "delivered"})
        spend(opened, STUDY, number)
    opened.audit({"purpose": "test", "federation": STUDY, "run": "first", "images": 7, "epsilon": None})
    said = done("show", box)
    assert f"site north, kept by data@north.example, in {box}\nfingerprint {opened.public.fingerprint}\n" in said
    assert [line.split()[1::2] for line in said.splitlines() if line.startswith(("│ train", "│ test"))] == [
        ["train", "1", "6", "7", "4", "8"],
        ["test", "1", "6", "7", "4", "8"],
    ]
    (granted,) = (line for line in said.splitlines() if line.startswith(f"│ {STUDY}"))
    assert granted.split()[3::2] == ["granted", datetime.now(UTC).date().isoformat(), "2999-12-31", "8", f"{SPENT:.3f}", "secure"]
    assert f"{STUDY}: updates masked only, epsilon up to 8 over all its runs, at delta 1e-05 for each patient, masked sums with" in said
    assert f"for each patient: epsilon spent {SPENT:.3f}, may reach 8, at delta 1e-05 (epsilons and deltas added up; runs without" in said
    assert "pinned keys of others: none" in said and "audit log: 5 lines, verified" in said
    assert f"train: federation {STUDY}, run first, round 2, images 7, epsilon 0.5, outcome delivered\n" in said
    assert f"test: federation {STUDY}, run first, images 7\n" in said
    assert "init: images test 7 train 7" in said
    assert opened.audit_head().hash in said
    assert "init:" not in done("show", box, "--last", "2")


def test_show_of_a_folder_is_a_table(boxes: Path) -> None:
    done("grant", boxes / "south", STUDY)
    said = done("show", boxes)
    for site, granted in (("north", "nobody"), ("south", STUDY)):
        (line,) = (line for line in said.splitlines() if line.startswith(f"│ {site}"))
        assert SiteBox.open(boxes / site).public.fingerprint in line and granted in line


def test_show_warns_where_a_permission_file_was_edited(box: Path) -> None:
    done("grant", box, STUDY)
    path = next((box / "syft").rglob("private/**/train/syft.pub.yaml"))
    path.write_text(yaml.safe_dump({"rules": [{"pattern": "**", "access": {"read": ["*"]}}]}))
    said = done("show", box)
    assert "refused, see below" in said and f"warning: {path}: lets in '*', which names no single federation" in said


def test_show_shows_all_else_before_a_broken_audit_log(box: Path) -> None:
    log = box / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"train": 7', b'"train": 8'))
    result = run("show", box)
    assert isinstance(result.exception, ConsentError) and "line 1 is not what was written" in str(result.exception)
    assert "fingerprint" in result.output and "grants: none" in result.output and "verified" not in result.output


def test_grant_and_revoke_of_one_box(box: Path) -> None:
    said = done("grant", box, STUDY, "--max-epsilon", "2.5")
    assert (
        f"granted {STUDY} the data of north: updates masked only, epsilon up to 2.5 over all its runs, at delta 1e-05 for each patient, "
        in said
    )
    assert f"primia-ray site revoke {box} {STUDY}\n" in said
    assert SiteBox.open(box).max_epsilon(STUDY) == 2.5
    assert f"revoked {STUDY} at north" in done("revoke", box, STUDY)
    with pytest.raises(ConsentError, match="was revoked"):
        SiteBox.open(box).check_grant(STUDY)


def test_a_folder_of_boxes_wants_all(boxes: Path) -> None:
    for verb in ("grant", "revoke"):
        assert str(failed(verb, boxes, STUDY)) == f"{boxes}: a folder of 2 boxes; name one of them, or say --all"
    assert f"primia-ray site revoke {boxes} {STUDY} --all\n" in done("grant", boxes, STUDY, "--all")
    for site in ("north", "south"):
        SiteBox.open(boxes / site).check_grant(STUDY)
    done("revoke", boxes / "north", STUDY)
    assert done("revoke", boxes, STUDY, "--all").count("revoked study") == 2


def test_a_revoke_of_all_reaches_those_after_a_box_that_refuses(boxes: Path) -> None:
    done("grant", boxes / "south", STUDY)
    assert "site 'north' never granted" in str(failed("revoke", boxes, STUDY, "--all"))
    assert SiteBox.open(boxes / "south").grants()[0].state == "revoked"


@pytest.mark.parametrize(
    ("require", "words"), [("secure", "updates masked only"), ("sealed", "updates masked or sealed"), ("any", "updates in clear too")]
)
def test_a_grant_asks_for_protection_and_show_tells_which(box: Path, require: str, words: str) -> None:
    assert f"the data of north: {words}, no cap on epsilon" in done("grant", box, STUDY, "--require", require)
    assert SiteBox.open(box).check_grant(STUDY).require == require
    (granted,) = (line for line in done("show", box).splitlines() if line.startswith(f"│ {STUDY}"))
    assert granted.split()[-2] == require


def test_another_protection_is_no_option(box: Path) -> None:
    assert run("grant", box, STUDY, "--require", "none").exit_code == 2
    assert SiteBox.open(box).grants() == ()


def test_keys_are_handed_out_and_pinned_once_and_replaced_on_purpose(box: Path, boxes: Path, tmp_path: Path) -> None:
    file = tmp_path / "south.json"
    said = done("show", boxes / "south", "--public-key", file)
    fingerprint = SiteBox.open(boxes / "south").public.fingerprint
    assert f"wrote {file} (public keys of south, fingerprint {fingerprint})" in said
    assert f"pinned south, fingerprint {fingerprint}" in done("pin", box, file)
    assert "known already: south" in done("pin", box, file)
    assert SiteBox.open(box).pinned("south") == SiteBox.open(boxes / "south").public.key
    assert fingerprint in done("show", box)
    other = tmp_path / "other.json"
    other.write_text(file.read_text())
    document = SiteBox.open(boxes / "north").public_document().replace("primia:north", "primia:south")
    other.write_text(document)
    error = failed("pin", box, other)
    assert isinstance(error, ProtocolError) and fingerprint in str(error) and "--replace" in str(error)
    assert "pinned south" in done("pin", box, other, "--replace")


@pytest.mark.parametrize("name", ["*", "*@hospital.example", "{{.UserEmail}}", "USER", "../../x@y", "Study@hospital.example"])
def test_names_for_many_are_refused(box: Path, name: str) -> None:
    for verb in ("grant", "revoke"):
        assert "names no single federation" in str(failed(verb, box, name))


def test_bad_terms_are_refused(box: Path) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    assert f"until {yesterday} is over already" in str(failed("grant", box, STUDY, "--until", yesterday))
    assert "a cap on epsilon of 0.0" in str(failed("grant", box, STUDY, "--max-epsilon", "0"))
    assert run("grant", box, STUDY, "--until", "tomorrow").exit_code == 2


def test_bad_boxes_and_data_are_named(box: Path, made: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for words in (("show", nowhere), ("grant", nowhere, STUDY), ("revoke", nowhere, STUDY, "--all")):
        assert f"{nowhere}: no such folder" in str(failed(*words))
    assert f"{nowhere}: no site box" in str(failed("pin", nowhere, nowhere))
    assert "no public keys of a site" in str(failed("pin", box, shutil.copy(box / "box.json", box.parent / "no-keys.json")))
    assert isinstance(failed("init", box, "--data", made / "packed"), DataError)
    assert isinstance(failed("init", nowhere, "--data", tmp_path), DataError)
    assert "sites: north, south" in str(failed("init", nowhere, "--data", made / "packed", "--site", "west"))
    assert "names no single federation" in str(failed("init", nowhere, "--data", made / "packed", "--owner", "me"))
    assert not nowhere.exists()
    (box / "identity" / "private.json").chmod(0o644)
    assert "private keys with mode 0644" in str(failed("show", box))
