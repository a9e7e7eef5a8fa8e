"""Sealed updates: for the driver alone, of one sender, in one round, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from primia.config.settings import Settings
from primia.errors import ProtocolError
from primia.federation.messages import Charter, Contribution, RoundTask, seal_context
from primia.federation.site.member import Member
from primia.federation.site.outbox import SealedOutbox
from primia.federation.sources import PackedSite
from primia.federation.update import Update
from primia.models.flat import Entry, FlatSpec
from primia.secagg.identity import Identity

SPEC = FlatSpec([Entry("w", (4,), 0, 4)], [Entry("running_mean", (2,), 0, 2)], [])
TASK = RoundTask(3, 5, ("site-1",), None, nonce="fresh")


@pytest.fixture(scope="module")
def driver() -> Identity:
    return Identity.generate("study@hospital.example")


@pytest.fixture
def charter(driver: Identity, tmp_path: Path) -> Charter:
    settings = Settings.model_validate({"secure_aggregation": {"enabled": False}})
    return Charter("id", "run", ("site-1", "site-2"), settings, ("a", "b"), 1, tmp_path, driver.public)


@pytest.fixture
def member() -> Member:
    return Member(PackedSite("site-1"))


def contribution() -> Contribution:
    return Contribution(Update(np.arange(4, dtype=np.float32), np.ones(2, np.float32), 7.0), 7, 2, 3.5)


def sealed(charter: Charter, member: Member) -> bytes:
    outbox = SealedOutbox(charter, TASK)
    assert outbox.put(member, contribution()) == len(outbox.sealed["site-1"])
    return outbox.sealed["site-1"]


def test_the_driver_reads_what_was_sealed(charter: Charter, member: Member, driver: Identity) -> None:
    assert charter.is_sealed
    payload = driver.open(member.identity(charter).public, seal_context(charter, TASK, "site-1"), sealed(charter, member))
    back = Contribution.from_bytes(payload, SPEC)
    assert back.update.parameters.tolist() == [0, 1, 2, 3] and (back.samples, back.steps, back.loss_sum) == (7, 2, 3.5)


@pytest.mark.parametrize("change", [{"round": 4}, {"nonce": "later"}])
def test_an_update_of_another_round_or_try_is_a_replay(
    charter: Charter, member: Member, driver: Identity, change: dict[str, object]
) -> None:
    later = replace(TASK, **change)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="replay"):
        driver.open(member.identity(charter).public, seal_context(charter, later, "site-1"), sealed(charter, member))


def test_another_sites_update_is_refused(charter: Charter, member: Member, driver: Identity) -> None:
    other = Identity.generate("site-2")
    with pytest.raises(ProtocolError):
        driver.open(other.public, seal_context(charter, TASK, "site-2"), sealed(charter, member))


def test_a_driver_with_new_keys_is_refused_by_a_site_that_has_pinned_the_old_ones(charter: Charter, member: Member) -> None:
    sealed(charter, member)
    impostor = replace(charter, driver=Identity.generate("study@hospital.example").public)
    with pytest.raises(ProtocolError, match="pinned"):
        SealedOutbox(impostor, TASK).put(member, contribution())


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_what_is_no_contribution_is_refused(cut: int) -> None:
    with pytest.raises(ProtocolError, match="a sealed update cannot be read"):
        Contribution.from_bytes(contribution().to_bytes()[:cut], SPEC)


def test_vectors_of_another_model_are_refused() -> None:
    longer = Contribution(Update(np.zeros(5, np.float32), np.ones(2, np.float32), 1.0), 1, 1, 0.0)
    with pytest.raises(ProtocolError, match="not those of the model"):
        Contribution.from_bytes(longer.to_bytes(), SPEC)


def test_keys_and_pins_of_a_site_are_its_own(charter: Charter, member: Member, tmp_path: Path) -> None:
    sealed(charter, member)
    assert (tmp_path / "site-1" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert Member(member.source).identity(charter).public == member.identity(charter).public
