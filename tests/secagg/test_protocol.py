"""The two roles together: exact sums under every pattern of dropouts, nothing but sums, and no way round the checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ProtocolError
from primia.secagg.driver import DriverRole
from primia.secagg.graph import groups, needed
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.local import Dropouts, aggregate
from primia.secagg.messages import Advertisement, Roster, Shares, Task, aggregation_digest
from primia.secagg.ring import Layout, RingVector
from primia.secagg.site import SiteRole

Identities = Mapping[str, Identity]
MakeTask = Callable[..., Task]
STEPS = ("advertise", "share", "mask", "confirm", "unmask")


def trust(identity: PublicIdentity) -> None: ...


def random_vectors(task: Task, seed: int = 0) -> dict[str, RingVector]:
    generator = np.random.default_rng(seed)
    return {name: RingVector(task.layout, generator.integers(0, 256, task.layout.nbytes, dtype=np.uint8)) for name in task.sites}


def plain_sum(task: Task, vectors: Mapping[str, RingVector], sites: tuple[str, ...]) -> RingVector:
    total = RingVector.zeros(task.layout)
    for name in sites:
        total.add_(vectors[name])
    return total


def copies(vectors: Mapping[str, RingVector]) -> dict[str, RingVector]:
    return {name: RingVector(vector.layout, vector.data.copy()) for name, vector in vectors.items()}


def equal(first: RingVector, second: RingVector) -> bool:
    return np.array_equal(first.narrow, second.narrow) and np.array_equal(first.wide, second.wide)


def check(task: Task, identities: Identities, dropouts: Dropouts) -> tuple[str, ...]:
    """Aggregate, and compare with the plain sum over those who delivered."""
    vectors = random_vectors(task)
    survivors, total = aggregate(task, identities, copies(vectors), dropouts)
    gone = dropouts.advertise | dropouts.share | dropouts.mask
    assert set(survivors) == set(task.sites) - gone
    assert equal(total, plain_sum(task, vectors, survivors))
    return survivors


def enough(task: Task, dropouts: Dropouts) -> bool:
    """Whether the protocol promises a sum, for a complete graph: a majority of those who share stays to the end."""
    advertised = set(task.sites) - dropouts.advertise
    least = needed(task.threshold, len(advertised), len(advertised))
    stayed = advertised - dropouts.share - dropouts.mask - dropouts.confirm - dropouts.unmask
    return len(advertised) >= needed(task.threshold, len(task.sites), len(task.sites)) and len(stayed) >= least


@pytest.mark.parametrize("first", [None, *STEPS])
def test_three_sites_under_every_pattern_of_dropouts(identities: Identities, make_task: MakeTask, first: str | None) -> None:
    """6^3 patterns: exact where enough stay, an error where not; never a wrong sum."""
    task = make_task(3)
    for others in product((None, *STEPS), repeat=2):
        pattern = dict(zip(task.sites, (first, *others), strict=True))
        dropouts = Dropouts(**{step: frozenset(name for name, at in pattern.items() if at == step) for step in STEPS})
        if enough(task, dropouts):
            check(task, identities, dropouts)
        else:
            with pytest.raises(ProtocolError):
                aggregate(task, identities, random_vectors(task), dropouts)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_number_of_sites_up_to_the_threshold_may_drop_out(identities: Identities, data: st.DataObject) -> None:
    sites = data.draw(st.integers(2, 9))
    layout = Layout(data.draw(st.integers(0, 40)), data.draw(st.integers(1, 5)))
    threshold = data.draw(st.sampled_from([0.51, 0.6, 0.8]))
    task = Task("f@example.org", "run", 1, "train", tuple(identities)[:sites], threshold, 0, layout)
    steps = data.draw(st.lists(st.sampled_from(STEPS), max_size=sites - needed(threshold, sites, sites)))
    lost = dict(zip(data.draw(st.permutations(task.sites)), steps, strict=False))
    dropouts = Dropouts(**{step: frozenset(name for name, at in lost.items() if at == step) for step in STEPS})
    if enough(task, dropouts):
        check(task, identities, dropouts)


def test_many_sites_on_a_graph_of_few_neighbours(identities: Identities, make_task: MakeTask) -> None:
    task = make_task(40, neighbours=20)
    names = task.sites
    lost = Dropouts(
        advertise=frozenset(names[:1]), share=frozenset(names[10:11]), mask=frozenset(names[20:22]), confirm=frozenset(names[30:31])
    )
    assert len(check(task, identities, lost)) == 36


def test_two_sites(identities: Identities, make_task: MakeTask) -> None:
    assert len(check(make_task(2), identities, Dropouts())) == 2


def test_what_the_driver_receives_is_uniform(identities: Identities, make_task: MakeTask) -> None:
    """Chi-square over byte values of one site's masked constant vector; 330 is the 99.9 % point of 255 degrees of freedom."""
    task = make_task(3, layout=Layout(50_000, 0))
    seen = conversation(identities, task).masked[task.sites[0]]
    counts = np.bincount(seen.data, minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 330


class conversation:  # noqa: N801 - reads as a verb below
    """All steps up to where a test takes over; zeros as vectors."""

    def __init__(self, identities: Identities, task: Task, until: str = "unmask", vanish: tuple[str, ...] = ()) -> None:
        self.task, self.driver = task, DriverRole(task)
        self.roles = {name: SiteRole(identities[name], task) for name in task.sites}
        self.advertisements = {name: role.advertise() for name, role in self.roles.items()}
        self.rosters = self.driver.rosters(self.advertisements)
        if until == "share":
            return
        self.outboxes = {name: role.share(self.rosters[name], trust) for name, role in self.roles.items()}
        self.inboxes = self.driver.deliver(self.outboxes)
        if until == "mask":
            return
        self.masked = {}
        for name, role in self.roles.items():
            if name not in vanish:
                vector = role.mask(RingVector.zeros(task.layout), self.inboxes[name])
                self.masked[name] = RingVector(task.layout, vector.data.copy())
                self.driver.add([name], vector)
        if until == "confirm":
            return
        self.signatures = {name: self.roles[name].confirm(self.driver.survivors) for name in self.masked}

    def confirmations(self, name: str) -> dict[str, bytes]:
        return self.driver.confirmations_for(name, self.signatures)


def test_no_step_can_be_asked_for_twice_or_out_of_turn(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3))
    role = talk.roles["site-00"]
    with pytest.raises(ProtocolError, match="asked to mask out of turn or twice"):
        role.mask(RingVector.zeros(talk.task.layout), talk.inboxes["site-00"])
    role.unmask(talk.confirmations("site-00"))
    for again in (lambda: role.unmask(talk.confirmations("site-00")), lambda: role.confirm(talk.driver.survivors)):
        with pytest.raises(ProtocolError, match="out of turn or twice"):
            again()
    with pytest.raises(ProtocolError, match="asked to confirm out of turn"):
        conversation(identities, make_task(3), until="mask").roles["site-00"].confirm(["site-00", "site-01"])


def test_a_driver_that_tells_sites_different_lists_gets_nothing(identities: Identities, make_task: MakeTask) -> None:
    """The attack that the consistency check is for: both kinds of share of one site, from different others."""
    talk = conversation(identities, make_task(4), until="confirm")
    names = talk.task.sites
    whole, without = list(names), [name for name in names if name != "site-00"]
    lists = {"site-00": whole, "site-01": whole, "site-02": without, "site-03": without}
    talk.signatures = {name: talk.roles[name].confirm(lists[name]) for name in names}
    for name in names:
        with pytest.raises(ProtocolError, match="a signature is not that of"):
            talk.roles[name].unmask(talk.confirmations(name))


def test_signatures_that_are_held_back_stop_the_opening(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(5))
    with pytest.raises(ProtocolError, match="1 of the 5 sites in the group of 'site-00' confirmed who delivered, 3 are needed"):
        talk.roles["site-00"].unmask({})


def test_a_site_gives_one_kind_of_share_of_each_other(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(4), vanish=("site-03",))
    shares = talk.roles["site-00"].unmask(talk.confirmations("site-00"))
    assert set(shares.own_masks) == {"site-00", "site-01", "site-02"} and set(shares.mask_keys) == {"site-03"}


@pytest.mark.parametrize(
    "survivors",
    [["site-01", "site-02"], ["site-00", "site-01", "stranger"], ["site-00"]],
    ids=["not itself", "a stranger", "too few"],
)
def test_a_list_of_survivors_that_cannot_be_true_is_refused(identities: Identities, make_task: MakeTask, survivors: list[str]) -> None:
    talk = conversation(identities, make_task(3), until="confirm")
    with pytest.raises(ProtocolError):
        talk.roles["site-00"].confirm(survivors)


def test_a_forged_mask_key_is_refused(identities: Identities, make_task: MakeTask) -> None:
    """The driver puts a key of its own in a site's place; it cannot sign it."""
    talk = conversation(identities, make_task(3), until="share")
    own = SiteRole(identities["site-01"], talk.task)._private.public_key().public_bytes_raw()
    forged = replace(talk.advertisements["site-01"], mask_key=own)
    keys = {**talk.rosters["site-00"].mask_keys, "site-01": own}
    roster = Roster(keys, {**talk.rosters["site-00"].neighbours, "site-01": forged})
    with pytest.raises(ProtocolError, match="a signature is not that of 'site-01'"):
        talk.roles["site-00"].share(roster, trust)


def test_another_identity_than_the_pinned_one_is_refused(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="share")

    def pin(identity: PublicIdentity) -> None:
        if identity.key != identities[identity.name].public.key:
            raise ProtocolError(f"pinned another key for {identity.name}")

    impostor = SiteRole(Identity.generate("site-01"), talk.task).advertise()
    keys = {**talk.rosters["site-00"].mask_keys, "site-01": impostor.mask_key}
    with pytest.raises(ProtocolError, match="pinned another key for site-01"):
        talk.roles["site-00"].share(Roster(keys, {**talk.rosters["site-00"].neighbours, "site-01": impostor}), pin)


def test_an_advertisement_of_another_round_is_refused(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="share")
    old = SiteRole(identities["site-01"], make_task(3, round_=0)).advertise()
    keys = {**talk.rosters["site-00"].mask_keys, "site-01": old.mask_key}
    with pytest.raises(ProtocolError, match="a signature is not that of 'site-01'"):
        talk.roles["site-00"].share(Roster(keys, {**talk.rosters["site-00"].neighbours, "site-01": old}), trust)


def test_a_roster_without_ones_own_key_is_refused(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="share")
    roster = talk.rosters["site-00"]
    for keys in ({**roster.mask_keys, "site-00": bytes(32)}, {**roster.mask_keys, "stranger": bytes(32)}):
        with pytest.raises(ProtocolError, match="not that of this aggregation"):
            SiteRole(identities["site-00"], talk.task)._check_roster(Roster(keys, roster.neighbours))
    with pytest.raises(ProtocolError, match="advertisement of 'site-01' is missing"):
        talk.roles["site-00"].share(Roster(roster.mask_keys, {}), trust)


def test_replayed_shares_are_refused(identities: Identities, make_task: MakeTask) -> None:
    """Envelopes of an earlier try at the very same task do not fit: the keys are fresh."""
    earlier, now = (conversation(identities, make_task(3), until="mask") for _ in range(2))
    inbox = {**now.inboxes["site-00"], "site-01": earlier.inboxes["site-00"]["site-01"]}
    with pytest.raises(ProtocolError, match="replay"):
        now.roles["site-00"].mask(RingVector.zeros(now.task.layout), inbox)


def test_shares_under_another_senders_name_are_refused(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="mask")
    inbox = {"site-01": talk.inboxes["site-00"]["site-02"], "site-02": talk.inboxes["site-00"]["site-01"]}
    with pytest.raises(ProtocolError, match="cannot be opened"):
        talk.roles["site-00"].mask(RingVector.zeros(talk.task.layout), inbox)
    with pytest.raises(ProtocolError, match="which is not its neighbour"):
        conversation(identities, make_task(3), until="mask").roles["site-01"].mask(RingVector.zeros(talk.task.layout), {"stranger": b""})


def test_two_sites_with_one_identity_are_refused(identities: Identities, make_task: MakeTask) -> None:
    task = make_task(3)
    twin = Identity("site-01", identities["site-00"]._keys)
    roles = [SiteRole(identities["site-00"], task), SiteRole(twin, task), SiteRole(identities["site-02"], task)]
    advertisements = dict(zip(task.sites, [role.advertise() for role in roles], strict=True))
    with pytest.raises(ProtocolError, match="'site-00' and 'site-01' have one identity key"):
        DriverRole(task).rosters(advertisements)
    keys = {name: advertisement.mask_key for name, advertisement in advertisements.items()}
    with pytest.raises(ProtocolError, match="two sites with one identity"):
        roles[2].share(Roster(keys, {name: advertisements[name] for name in task.sites[:2]}), trust)


def test_fewer_sites_than_the_threshold(identities: Identities, make_task: MakeTask) -> None:
    task = make_task(5)
    advertisements = {name: SiteRole(identities[name], task).advertise() for name in task.sites[:2]}
    with pytest.raises(ProtocolError, match=r"2 of 5 sites take part, 3 are needed \(secure_aggregation.threshold\)"):
        DriverRole(task).rosters(advertisements)


def test_a_vector_of_the_wrong_length_is_refused_on_both_sides(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="mask")
    wrong = RingVector.zeros(Layout(6, 3))
    with pytest.raises(ProtocolError, match=r"site 'site-00' sent a vector of \d+ bytes where \d+ are due"):
        talk.roles["site-00"].mask(wrong, talk.inboxes["site-00"])
    with pytest.raises(ProtocolError, match="site site-00 sent a vector"):
        talk.driver.add(["site-00"], wrong)


def test_a_vector_that_comes_twice_or_from_a_stranger_is_refused(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3), until="confirm")
    for name in ("site-00", "stranger"):
        with pytest.raises(ProtocolError, match=f"masked vector of '{name}' is not due"):
            talk.driver.add([name], RingVector.zeros(talk.task.layout))


def answers(talk: conversation) -> dict[str, Shares]:
    return {name: talk.roles[name].unmask(talk.confirmations(name)) for name in talk.signatures}


def test_a_false_share_is_got_round_where_there_are_enough_others(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(4))
    given = answers(talk)
    given["site-00"] = replace(given["site-00"], own_masks={name: bytes(32) for name in talk.task.sites})
    assert not talk.driver.open(given).narrow.any()


def test_false_shares_that_cannot_be_got_round_are_told(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(3))
    given = answers(talk)
    for name in ("site-00", "site-01"):
        given[name] = replace(given[name], own_masks=dict.fromkeys(talk.task.sites, b"\xff" * 32))
    with pytest.raises(ProtocolError, match="a site sent a false share"):
        talk.driver.open(given)


def test_too_few_answers_do_not_open_the_sum(identities: Identities, make_task: MakeTask) -> None:
    talk = conversation(identities, make_task(5))
    given = answers(talk)
    with pytest.raises(ProtocolError, match="2 sites in the group of 'site-00' stayed to the end, 3 are needed"):
        talk.driver.open({name: given[name] for name in talk.task.sites[:2]})


def test_a_mask_key_that_is_none_is_refused(identities: Identities, make_task: MakeTask) -> None:
    """The all-zero point would give a shared secret that everybody knows."""
    task = make_task(3)
    role = SiteRole(identities["site-00"], task)
    own = role.advertise()
    zero = {}
    for name in ("site-01", "site-02"):
        signature = identities[name].sign(Advertisement.signed_text(task, bytes(32), bytes(32)))
        zero[name] = Advertisement(identities[name].public, bytes(32), bytes(32), signature)
    keys = {"site-00": own.mask_key, "site-01": bytes(32), "site-02": bytes(32)}
    role.share(Roster(keys, zero), trust)
    digest = aggregation_digest(task, keys)
    assert groups(tuple(keys), 0, digest)["site-00"] == task.sites
    context = role._context("site-01", "site-00")
    envelope = identities["site-01"].seal(identities["site-00"].public, context, bytes(64))
    with pytest.raises(ProtocolError, match="the mask key of 'site-01' is no key"):
        role.mask(RingVector.zeros(task.layout), {"site-01": envelope})


def test_a_stranger_takes_no_part(identities: Identities, make_task: MakeTask) -> None:
    with pytest.raises(ProtocolError, match="'site-09' is not among the sites"):
        SiteRole(identities["site-09"], make_task(3))
