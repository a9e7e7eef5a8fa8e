"""What leaves a site is declared, leaves as declared, and does not tell its number of images."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest

from primia.config.settings import MOST, Settings
from primia.consent.boxes import create_boxes, federated_data
from primia.errors import DataError, FederationError, LoneImage, NonFiniteLoss, TrainingError
from primia.federation.border import FIELDS, METRICS, REPLIES, Way, border_markdown
from primia.federation.driver.hosts import Answer, Arguments
from primia.federation.driver.prepare import prepare_run
from primia.federation.driver.run import run_federation
from primia.federation.messages import HostEvaluation, HostFacts, HostReply, HostResult, SiteFailure, SiteReport
from primia.federation.plan import SPLITS, assign_hosts
from primia.federation.refusals import Kind, kind_of
from primia.federation.run_spec import RunSetup
from primia.federation.site.host import SiteHost
from primia.privacy.site import Statement
from primia.runs.folder import RunFolder
from primia.secagg.identity import Identity
from primia.secagg.ring import RingVector

PAGE = Path(__file__).resolve().parents[2] / "docs" / "border.md"
KEPT = {"secure_aggregation": {"site_metrics": False}}
SEALED = {"secure_aggregation": {"enabled": False}}
PLAIN = {"secure_aggregation": {"enabled": False, "seal": False}}
PRIVATE: dict[str, dict[str, object]] = {
    "model": {"normalisation": "group"},
    "privacy": {"unit": "image", "noise_multiplier": 1.0, "delta": 0.01, "accountant": "rdp"},
}
OPEN_TYPED = {(HostReply, "values"), (HostEvaluation, "metrics"), (SiteReport, "privacy")}
"""Fields of any content, which is declared by call and by key."""

Make = Callable[..., RunSetup]
MakeHosts = Callable[..., Any]
Words = Callable[..., str]


# The types


def types_in(hint: object) -> Iterator[type]:
    """The classes that a type hint names, containers taken apart."""
    if get_origin(hint) is np.ndarray:
        yield np.ndarray
    elif get_origin(hint) in (Union, types.UnionType) or isinstance(get_origin(hint), type):
        for part in get_args(hint):
            yield from types_in(part)
    elif isinstance(hint, type) and hint is not types.NoneType:
        yield hint
    elif hint not in (None, types.NoneType, ...):
        yield object


def reached(*hints: object) -> dict[type, None]:
    """All dataclasses that values of these types can hold."""
    found: dict[type, None] = {}
    waiting = [each for hint in hints for each in types_in(hint)]
    while waiting:
        each = waiting.pop()
        if each in found or not is_dataclass(each):
            continue
        found[each] = None
        waiting += [part for name, hint in get_type_hints(each).items() if (each, name) not in OPEN_TYPED for part in types_in(hint)]
    return found


def undeclared(*hints: object) -> list[str]:
    """Fields that values of these types can hold and that have no declaration, and those whose type says nothing."""
    missing = []
    for each in reached(*hints):
        for name, hint in get_type_hints(each).items():
            says_nothing = object in types_in(hint) and (each, name) not in OPEN_TYPED
            if name not in FIELDS.get(each, {}) or says_nothing:
                missing.append(f"{each.__name__}.{name}")
    return missing


def calls() -> dict[str, object]:
    """What each call of a site returns."""
    public = inspect.getmembers(SiteHost, lambda member: inspect.isfunction(member))
    return {name: get_type_hints(method)["return"] for name, method in public if not name.startswith("_")}


def test_every_field_that_can_leave_a_site_is_declared() -> None:
    returned = calls()
    assert {"join", "facts", "train", "evaluate", "statements"} <= set(returned)
    assert undeclared(*returned.values(), *REPLIES.values()) == []
    assert {name for name, hint in returned.items() if hint is HostReply} == set(REPLIES)
    allowed = (types.NoneType, HostFacts, HostResult, HostEvaluation, HostReply)
    assert all(hint in allowed for hint in returned.values()), "a call with an answer of a new kind"


def test_nothing_is_declared_that_there_is_not() -> None:
    assert set(FIELDS) == set(reached(*calls().values(), *REPLIES.values()))
    for each, declared in FIELDS.items():
        assert list(declared) == [field.name for field in fields(each)], each


def test_a_new_field_is_found_wherever_it_is() -> None:
    @dataclass(frozen=True)
    class Told(SiteReport):
        patients: int = 0

    @dataclass(frozen=True)
    class Loose:
        anything: Mapping[str, object]

    assert "Told.patients" in undeclared(tuple[Told, ...] | None)
    assert undeclared(Mapping[str, Loose]) == ["Loose.anything"]


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == border_markdown(), "run: make docs"


# A run


class Tap:
    """Hosts whose answers are kept: each call with what it returned."""

    def __init__(self, hosts: Any) -> None:
        self._hosts = hosts
        self.answers: list[tuple[str, object]] = []

    def share(self, value: object) -> object:
        return self._hosts.share(value)

    def ask(self, method: str, sites: Sequence[str], arguments: Arguments) -> Iterator[Answer]:
        for answer in self._hosts.ask(method, sites, arguments):
            self.answers.append((method, answer.result))
            yield answer


def run(setup: RunSetup, make_hosts: MakeHosts) -> list[tuple[str, object]]:
    """All that leaves the sites in a whole run."""
    tap = Tap(make_hosts(assign_hosts(setup.sites, len(setup.training_sites))))
    for _ in run_federation(setup, tap):
        pass
    return tap.answers


def contents(call: str, value: object) -> Iterator[tuple[type, str, object]]:
    """Each field with its type and value, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        assert type(value) in FIELDS, f"{call}: {type(value)} is not declared"
        for field in fields(value):
            inner = getattr(value, field.name)
            yield type(value), field.name, inner
            if isinstance(value, HostReply) and field.name == "values":
                check_replies(call, inner)
            if (type(value), field.name) == (HostEvaluation, "metrics"):
                assert all(set(told) == set(METRICS) for told in inner.values())
            if (type(value), field.name) == (SiteReport, "privacy"):
                assert inner is None or set(inner) == set(FIELDS[Statement])
            yield from contents(call, inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from contents(call, inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from contents(call, inner)
    else:
        assert value is None or isinstance(value, bool | int | float | str | bytes | Enum | np.ndarray), f"{call}: {type(value)}"


def check_replies(call: str, values: Mapping[str, object]) -> None:
    for value in values.values():
        if call == "statements":
            assert isinstance(value, dict) and set(value) == set(FIELDS[Statement])
        elif call == "share":
            assert isinstance(value, dict) and all(isinstance(envelope, bytes) for envelope in value.values())
        else:
            assert isinstance(value, REPLIES[call])  # type: ignore[arg-type]


def is_kept(way: Way, value: object) -> bool:
    """Whether a value leaves as it is declared."""
    if way is Way.ABSENT:
        return value is None or not value
    if way is Way.SUM:
        return value is None or isinstance(value, RingVector) or (isinstance(value, np.ndarray) and value.dtype == np.uint8)
    if way is Way.SEALED:
        return isinstance(value, Mapping) and all(isinstance(envelope, bytes) for envelope in value.values())
    return True


@pytest.mark.parametrize(
    ("way", "sections"),
    [("secure", KEPT), ("secure", KEPT | PRIVATE), ("secure", {}), ("sealed", SEALED), ("plain", PLAIN | PRIVATE)],
    ids=["secure", "secure and private", "secure with metrics", "sealed", "plain and private"],
)
def test_what_leaves_is_what_is_declared(make_setup: Make, make_hosts: MakeHosts, way: str, sections: dict[str, Any]) -> None:
    setup = make_setup(**{**sections, "federation": {"rounds": 2}})
    seen = set()
    for call, answer in run(setup, make_hosts):
        for type_, name, value in contents(call, answer):
            seen.add((type_, name))
            assert is_kept(getattr(FIELDS[type_][name], way), value), f"{call}: {type_.__name__}.{name} = {value!r}"
            if type_ is SiteReport and name == "loss":
                assert (value is None) == ("privacy" in sections or way == "secure")
            if type_ is HostFacts and name == "counts":
                told = {split for counts in value.values() for split in counts}  # type: ignore[attr-defined]
                is_kept_secret = way == "secure" or "privacy" in sections
                assert told == (
                    set()
                    if "secure_aggregation" in sections and way == "secure"
                    else set(SPLITS) - ({"train"} if is_kept_secret else set())
                )
    assert {(HostFacts, "total"), (SiteReport, "upload_bytes"), (HostEvaluation, "total"), (HostReply, "values")} <= seen


def test_what_does_not_leave_as_declared_is_found() -> None:
    report = SiteReport("a", 1, steps=15)
    said = {name: is_kept(FIELDS[SiteReport][name].secure, value) for _, name, value in contents("train", report)}
    assert said == {"site": True, "upload_bytes": True, "samples": True, "steps": False, "loss": True, "privacy": True}
    assert not is_kept(Way.SUM, 3) and not is_kept(Way.SEALED, "clear")


# How many images a site has


def plain_view(answers: list[tuple[str, object]]) -> list[tuple[object, ...]]:
    """What is not masked or random in answers, and the size of what is."""
    view: list[tuple[object, ...]] = []
    for call, answer in answers:
        for type_, name, value in contents(call, answer):
            way = FIELDS[type_][name].secure
            if way is Way.PUBLIC:
                view.append((call, type_.__name__, name, repr(value)))
            elif isinstance(value, bytes) or way is Way.ABSENT or isinstance(value, RingVector):
                view.append((call, type_.__name__, name, len(value) if isinstance(value, bytes) else getattr(value, "nbytes", repr(value))))
            elif isinstance(answer, HostReply) and name == "values":
                sizes = {site: {to: len(sealed) for to, sealed in each.items()} for site, each in value.items() if isinstance(each, dict)}
                view.append((call, "sizes", tuple(sorted(sizes)), repr(sizes)))
    return view


def site_rows(setup: RunSetup) -> list[dict[str, object]]:
    """Rows of single sites in ``rounds.parquet``, but for the time that the driver measured."""
    rows = pq.read_table(RunFolder(setup.folder).history).to_pylist()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows if row["site"] != "all"]


@pytest.mark.parametrize("batch_size", [4, 7, 60, 61, 100])
@pytest.mark.parametrize("schedule", [{}, {"schedule": "cosine"}], ids=["log-linear", "cosine"])
def test_a_driver_that_looks_learns_no_sites_number_of_images(
    make_sized: Callable[..., RunSetup], make_hosts: MakeHosts, batch_size: int, schedule: dict[str, object]
) -> None:
    """The last learning rate, a time, or a refusal for fewer images than a batch each told it, one question after the other."""
    training = {"batch_size": batch_size, **schedule}
    one = make_sized("one", (60, 60, 60), training=training)
    other = make_sized("two", (57, 60, 61), training=training)
    assert plain_view(run(one, make_hosts)) == plain_view(run(other, make_hosts))
    assert site_rows(one) == site_rows(other)
    for setup in (one, other):
        for row in site_rows(setup):
            assert row["status"] == "ok" and row["samples"] is None and row["steps"] is None and row["train_loss"] is None
        assert RunFolder(setup.folder).read_summary()["faults"] == []


@pytest.mark.parametrize(
    ("section", "changed"),
    [("federation", {"local_epochs": 2**63 // 61 + 1}), ("federation", {"local_epochs": 2**62}), ("training", {"batch_size": 2**62})],
)
def test_settings_near_the_end_of_the_integers_tell_no_number_of_images(
    make_sized: Callable[..., RunSetup], make_hosts: MakeHosts, section: str, changed: dict[str, object]
) -> None:
    """The attack: steps of 61 images and more are beyond 63 bits, and such sites fail in clear; a dozen questions give the number."""
    views = []
    for name, sizes in (("one", (60, 60, 60)), ("two", (57, 61, 63))):
        setup = make_sized(name, sizes)
        settings = setup.settings.model_copy(update={section: getattr(setup.settings, section).model_copy(update=changed)})
        tap = Tap(make_hosts(assign_hosts(setup.sites, 3)))
        with pytest.raises(FederationError):
            for _ in run_federation(replace(setup, settings=settings), tap):
                pass
        views.append(plain_view(tap.answers))
    assert views[0] == views[1]


@pytest.mark.parametrize("change", [{"local_epochs": MOST}, {"sync_every_n_batch": MOST}])
def test_facts_of_the_longest_rounds_can_be_added(
    make_sized: Callable[..., RunSetup], make_hosts: MakeHosts, change: dict[str, int]
) -> None:
    setup = make_sized("one", (57, 60, 61), federation=change, training={"batch_size": 1})
    prepared = prepare_run(setup, make_hosts(assign_hosts(setup.sites, 3)), Identity.generate("demo@primia.example"))
    assert prepared.train_units == 178


@pytest.mark.parametrize("error", [NonFiniteLoss, LoneImage, OverflowError, MemoryError, OSError, DataError])
@pytest.mark.parametrize("privacy", [{}, PRIVATE], ids=["plain", "private"])
def test_which_sites_loss_is_not_finite_is_in_the_sum_only(
    make_setup: Make,
    make_hosts: MakeHosts,
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
    privacy: dict[str, Any],
    error: type[Exception],
) -> None:
    """By a learning rate that takes so many steps to fail, a driver would learn which sites make as many.

    And by batches of two which sites have an odd number of images, where BatchNorm refuses a batch of one.
    """
    trained, views = SiteHost._trained, []

    def failing(host: SiteHost, session: Any, task: Any, member: Any, *rest: Any) -> Any:
        if member.name == failed:
            raise error(f"site {member.name}, batch 15 of 16: cannot be done")
        return trained(host, session, task, member, *rest)

    for name, failed in (("one", "site-1"), ("two", "site-3")):
        setup = make_setup(name, **{**KEPT, **privacy, "federation": {"rounds": 1}})
        monkeypatch.setattr(SiteHost, "_trained", failing)
        tap = Tap(make_hosts(assign_hosts(setup.sites, 3)))
        with pytest.raises(TrainingError, match=r"round 1, 1 of 3 sites: the loss is no longer finite") as raised:
            for _ in run_federation(setup, tap):
                pass
        assert "site-" not in str(raised.value) and "batch 15 of 16" in words(setup, failed)
        views.append(plain_view(tap.answers))
    assert views[0] == views[1]


# What stops a site


@pytest.fixture
def boxed(make_sized: Callable[..., RunSetup], tmp_path: Path) -> tuple[RunSetup, dict[str, Path]]:
    """A run on granted boxes, and the path of each box's private training images."""
    make_sized("packed", (12, 12, 12))
    boxes = {box.name: box for box in create_boxes(tmp_path / "boxes", tmp_path / "packed-shards")}
    for box in boxes.values():
        box.grant("demo@primia.example", first_contact=True)
    settings = Settings.model_validate(
        {
            "data": {"source": "boxes", "path": tmp_path / "boxes"},
            "training": {"batch_size": 4},
            "federation": {"rounds": 1},
        }
    )
    data = federated_data(tmp_path / "boxes", False)
    folder = RunFolder.create(tmp_path / "boxed", settings, data.fingerprint)
    return RunSetup.of(settings, data, folder.path, started_at=0.0), {name: box.shard("train", False) for name, box in boxes.items()}


def said_by(setup: RunSetup) -> str:
    """All that a run's own files and no site's say."""
    files = [path for path in setup.folder.rglob("*") if path.is_file() and "sites" not in path.parts and path.suffix in (".log", ".json")]
    parquet = repr(pq.read_table(RunFolder(setup.folder).history).to_pylist()) if RunFolder(setup.folder).history.exists() else ""
    return "\n".join(path.read_text() for path in files if path.name != "data.json") + parquet


def test_names_of_files_in_a_box_stay_there(boxed: tuple[RunSetup, dict[str, Path]], make_hosts: MakeHosts, words: Words) -> None:
    """A damaged shard ends the run before its first round, with one line that names the site and no file."""
    setup, shards = boxed
    broken = shards["site-2"]
    broken.chmod(0o600)
    broken.write_bytes(b"no shard")
    with pytest.raises(DataError) as raised:
        run(setup, make_hosts)
    assert str(raised.value) == f"site 'site-2': {Kind.UNFIT.value}"
    box = next(site.source.box for site in setup.sites if site.name == "site-2")
    assert str(broken) in words(setup, "site-2", box)
    assert (box / "errors.log").stat().st_mode & 0o777 == 0o600
    assert str(broken.parent) not in said_by(setup) and broken.name not in said_by(setup)


def test_a_file_that_is_gone_in_a_round_costs_the_site_and_is_not_named(
    boxed: tuple[RunSetup, dict[str, Path]], make_hosts: MakeHosts, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, shards = boxed
    train = SiteHost.train

    def gone(host: SiteHost, *arguments: Any) -> HostResult:
        if host._gate.member("site-2"):
            shards["site-2"].unlink(missing_ok=True)
            host._gate.member("site-2")._images.clear()
        return train(host, *arguments)

    monkeypatch.setattr(SiteHost, "train", gone)
    answers = run(setup, make_hosts)
    failures = {(failure.site, failure.reason) for _, answer in answers for failure in getattr(answer, "failures", ())}
    assert failures == {("site-2", Kind.CONSENT.value)}, "the box notices that its images are gone"
    box = next(site.source.box for site in setup.sites if site.name == "site-2")
    assert str(shards["site-2"]) in words(setup, "site-2", box)
    assert "train.arrow" not in said_by(setup) and str(box) not in said_by(setup)


@pytest.mark.parametrize("call", ["join", "facts", "advertise", "share", "confirm", "unmask", "statements", "train", "evaluate"])
def test_no_call_lets_an_error_out(make_setup: Make, make_hosts: MakeHosts, words: Words, call: str) -> None:
    """Whatever goes wrong within a site, what leaves it is the kind: no word, no traceback, no exception."""
    setup = make_setup(**PRIVATE, federation={"rounds": 1})
    secret = "/box/of/site-2/patient-17.arrow has 61 rows"
    hosts = make_hosts(assign_hosts(setup.sites, 3))
    (member,) = [host._gate.member("site-2") for host in hosts.hosts if host._gate.member("site-2")]
    hook = {
        "join": "identity", "facts": "images", "statements": "statement", "train": "images", "evaluate": "images",
        "advertise": "advertise", "share": "share", "confirm": "confirm", "unmask": "unmask",
    }[call]  # fmt: skip

    def fail(*_: object) -> None:
        raise RuntimeError(secret)

    tap = Tap(hosts)
    ask = hosts.ask

    def asking(method: str, sites: Any, arguments: Arguments) -> Iterator[Answer]:
        original = getattr(member, hook)
        if method == call:
            setattr(member, hook, fail)
        yield from ask(method, sites, arguments)
        setattr(member, hook, original)

    hosts.ask = asking
    try:
        for _ in run_federation(setup, tap):
            pass
    except (FederationError, DataError) as error:
        assert secret not in str(error)
    failures = [failure for method, answer in tap.answers if method == call for failure in getattr(answer, "failures", ())]
    assert {(failure.site, failure.kind, failure.reason) for failure in failures} == {("site-2", Kind.FAILED, Kind.FAILED.value)}
    assert secret not in repr(tap.answers) and secret not in said_by(setup)
    assert secret in words(setup, "site-2") and "Traceback" in words(setup, "site-2")


def test_a_kind_follows_from_the_class_of_an_error_alone() -> None:
    assert kind_of(DataError("site a has 61 images")) is kind_of(DataError("b")) is Kind.UNFIT
    assert kind_of(ValueError("61")) is Kind.FAILED
    assert all(SiteFailure.of("a", kind).reason == kind.value and not any(map(str.isdigit, kind.value)) for kind in Kind)
