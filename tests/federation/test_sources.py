"""Which images a site works on: those of the box that its worker was started with, whatever else the driver names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from primia.consent.box import SiteBox
from primia.errors import ConsentError, FederationError
from primia.federation.driver.prepare import prepare_run
from primia.federation.messages import Charter, RoundTask, Session
from primia.federation.plan import assign_hosts
from primia.federation.refusals import Kind
from primia.federation.run_spec import RunSetup
from primia.federation.sources import BoxedSite, PackedSite, SiteImages, SiteSource
from primia.secagg.identity import Identity
from primia.secagg.messages import Task

DRIVER = Identity.generate("demo@primia.example")
MakeHosts = Callable[..., Any]
Words = Callable[..., str]


def started_with(setup: RunSetup, sources: dict[str, SiteSource]) -> RunSetup:
    """The run with other sources for some sites' workers."""
    return replace(setup, sites=tuple(replace(site, source=sources.get(site.name, site.source)) for site in setup.sites))


def one_each(setup: RunSetup, make_hosts: MakeHosts) -> Any:
    return make_hosts(assign_hosts(setup.sites, 3))


def test_a_site_under_another_sites_grant_is_not_trained_on(make_boxed: Any, make_hosts: MakeHosts) -> None:
    """Site 2 granted nothing: its images may come in neither in its own name nor in that of site 1."""
    setup, boxes = make_boxed({}, federation={"rounds": 1})
    boxes["site-2"].revoke("demo@primia.example")
    lying = started_with(setup, {"site-1": BoxedSite("site-1", boxes["site-2"].path)})
    hosts = one_each(lying, make_hosts)
    with pytest.raises(FederationError, match="two training sites"):
        prepare_run(lying, hosts, DRIVER)
    (failure,) = hosts.hosts[0].join(charter_of(setup, make_hosts), ["site-1"]).failures
    assert failure.kind is Kind.CONSENT
    with pytest.raises(ConsentError, match="the box of site 'site-2', not of 'site-1'"):
        hosts.hosts[0]._gate.member("site-1").admit(charter_of(setup, make_hosts))
    assert "facts" not in [entry.event["purpose"] for entry in boxes["site-2"].audit_log()]


def charter_of(setup: RunSetup, make_hosts: MakeHosts) -> Charter:
    return prepare_run(setup, one_each(setup, make_hosts), DRIVER).session.charter


@pytest.mark.parametrize("how", ["as it is", "by a link", "by a folder's link"])
def test_private_halves_without_their_box_are_refused(
    make_boxed: Any, make_hosts: MakeHosts, words: Words, tmp_path: Path, how: str
) -> None:
    setup, boxes = make_boxed({}, federation={"rounds": 1})
    sources = {
        name: PackedSite(name, **{split: (taken(box, split, how, tmp_path),) for split in box.splits}) for name, box in boxes.items()
    }
    lying = started_with(setup, sources)
    with pytest.raises(FederationError, match="no training site takes part: its box cannot be used as it is"):
        prepare_run(lying, one_each(lying, make_hosts), DRIVER)
    assert "lies in the site box" in words(lying, "site-1") and "which only its site opens" in words(lying, "site-1")
    assert {len(box.audit_log()) for box in boxes.values()} == {2}, "made and granted, and not used"


def taken(box: SiteBox, split: str, how: str, folder: Path) -> Path:
    shard = box.shard(split, dry_run=False)
    if how == "as it is":
        return shard
    link = folder / f"{box.name}-{split}"
    link.symlink_to(shard if how == "by a link" else shard.parent)
    return link if how == "by a link" else link / shard.name


def test_a_packed_sites_books_are_not_written_into_a_box(make_setup: Any, make_boxed: Any, make_hosts: MakeHosts) -> None:
    """The folder for state is the only path in a charter, and is for sites without a box."""
    _, boxes = make_boxed({})
    setup = make_setup("packed")
    hosts = one_each(setup, make_hosts)
    charter = replace(charter_of(setup, make_hosts), id="other", state_folder=boxes["site-1"].path)
    (failure,) = hosts.hosts[0].join(charter, ["site-1"]).failures
    assert failure.kind is Kind.CONSENT and not list(boxes["site-1"].path.glob("site-1"))


def test_what_a_boxed_site_keeps_of_a_run_is_in_its_box(make_boxed: Any, make_hosts: MakeHosts) -> None:
    """State that must not leave a site does not lie in a folder that the driver names."""
    setup, boxes = make_boxed({}, federation={"rounds": 1, "batchnorm": "local"})
    hosts = one_each(setup, make_hosts)
    prepared = prepare_run(setup, hosts, DRIVER)
    task = RoundTask(1, 1, setup.training_sites, None, range=16.0)
    list(prepared.collector.train(prepared.session, task, prepared.initial))
    for box in boxes.values():
        (state,) = box.path.glob("runs/*/*/round-000001.safetensors")
        assert not any(folder.stat().st_mode & 0o077 for folder in list(state.parents)[:3])
    assert not (setup.folder / "sites").exists()


def test_nothing_that_is_sent_to_a_site_names_its_files() -> None:
    paths = {field.name for sent in (Charter, Session, RoundTask, Task) for field in fields(sent) if "Path" in str(field.type)}
    assert paths == {"state_folder"}, "which sites with a box do not use"


def test_a_dry_run_opens_no_private_half_of_its_own_box(make_boxed: Any) -> None:
    _, boxes = make_boxed({})
    shard = boxes["site-1"].shard("train", dry_run=False)
    with pytest.raises(ConsentError, match="no mock half, and a dry run opens nothing else"):
        SiteImages({"train": (shard,)}, box=boxes["site-1"].path, mock=True).shards("train")
