"""What a site takes from a driver: values of exactly the declared classes, bounded, and made again."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import copysign
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.config.settings import PrivacySettings, RunSettings, Settings
from primia.data.statistics import Normalisation
from primia.errors import ProtocolError
from primia.federation.messages import Charter, RoundTask, Session
from primia.federation.site import canonical as module
from primia.federation.site import visits
from primia.federation.site.canonical import Unreadable, canonical, canonical_arguments
from primia.federation.site.gate import CALLS
from primia.federation.update import GlobalModel
from primia.privacy.account import Account
from primia.secagg.identity import Identity, PublicIdentity
from primia.secagg.messages import Advertisement, Roster, Task
from primia.secagg.ring import Layout
from primia.training.learner import LearnerSpec

DRIVER = Identity.generate("demo@primia.example").public
SETTINGS = Settings()
CHARTER = Charter("id", "run", ("a", "b"), SETTINGS, ("x", "y"), 1, Path("state"), DRIVER, Account(Path("books"), 3.0), ("a",))
SPEC = LearnerSpec(SETTINGS.model, SETTINGS.training, SETTINGS.augmentation, 0.0, "float32", "cpu", ("x", "y"), 1, 64, 1, (0.5, 1.5))
SESSION = Session(CHARTER, SPEC, Normalisation((0.5,), (0.25,)), 12.0)
TASK = RoundTask(1, 2, ("a",), None, keep=(0, 1), range=16.0, inboxes={"a": {"b": b"sealed"}}, nonce="n")
AGGREGATION = Task("f", "run", 1, "train", ("a", "b"), 0.6, 0, Layout(1, 1))
ROSTER = Roster({"a": b"key"}, {"b": Advertisement(DRIVER, b"key", b"commitment", b"signature")})


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


@pytest.mark.parametrize("value", [CHARTER, SESSION, TASK, AGGREGATION, ROSTER, SETTINGS], ids=lambda value: type(value).__name__)
def test_a_message_is_made_again_as_it_was(value: Any) -> None:
    copy = canonical(type(value), value)
    assert copy == value and copy is not value and type(copy) is type(value)


def test_all_that_is_within_is_made_again() -> None:
    copy = canonical(Session, SESSION)
    assert copy.charter.settings is not SETTINGS and copy.charter.settings.privacy is not SETTINGS.privacy
    assert copy.learner.model is not SPEC.model and copy.charter.account is not CHARTER.account
    assert canonical(RoundTask, TASK).inboxes["a"] is not TASK.inboxes["a"]


def test_vectors_are_not_copied() -> None:
    vector = np.zeros(3, np.float32)
    vector.flags.writeable = False
    assert canonical(GlobalModel, GlobalModel(1, vector, np.zeros(0, np.float32))).parameters is vector


@pytest.mark.parametrize("call", sorted(CALLS - {"leave"}))
def test_each_type_of_each_call_can_be_read(call: str) -> None:
    """A field of a new type would be refused at each site: found here, not there."""
    describe = getattr(visits, call)
    assert set(module._copies(describe)) == set(inspect.signature(describe).parameters)
    for copy in module._copies(describe).values():
        assert module._unknown not in functions_in(copy)


def functions_in(copy: Any) -> list[Any]:
    """What a copy is made of."""
    if isinstance(copy, Mapping):
        return [each for part in copy.values() for each in functions_in(part)]
    if isinstance(copy, tuple):
        return [each for part in copy for each in functions_in(part)]
    if hasattr(copy, "func"):
        return [copy.func, *functions_in(copy.args)]
    return [copy]


@dataclass(frozen=True)
class Holder:
    anything: object


@pytest.mark.parametrize("hint", [object, Any, complex, set[str], list, Holder, Sequence[Any], int | object, tuple[int, str]])
def test_a_type_that_says_too_little_has_no_copy(hint: Any) -> None:
    assert module._unknown in functions_in(module._copy_of(hint))
    with pytest.raises(Unreadable):
        canonical(hint, Holder(1) if hint is Holder else [1])


REFUSED: list[tuple[Any, Any]] = [
    (str, Text("a")),
    (str, b"a"),
    (str, 5),
    (str, None),
    (str, 1001 * "a"),
    (str, "a\nb"),
    (str, "a\x1b[2J"),
    (str, "a\u202eb"),
    (str, "\ud800"),
    (str, "a\u2028b"),
    (bytes, "a"),
    (bytes, bytearray(b"a")),
    (bytes, memoryview(b"a")),
    (bytes, bytes(2**20 + 1)),
    (int, True),
    (int, 1.0),
    (int, Number(1)),
    (int, np.int64(1)),
    (int, 2**63),
    (int, -(10**450)),
    (float, 1),
    (float, True),
    (float, np.float64(1.0)),
    (float, float("nan")),
    (float, float("-inf")),
    (bool, 1),
    (bool, np.True_),
    (type(None), 0),
    (Path, "path"),
    (Path, Path(5000 * "a")),
    (Path, Path("a\0b")),
    (Sequence[str], "ab"),
    (Sequence[str], {"a"}),
    (Sequence[str], iter(["a"])),
    (Sequence[str], map(str, [1])),
    (Sequence[str], range(3)),
    (Sequence[str], ["a", 1]),
    (Sequence[int], 100_001 * [1]),
    (tuple[str, ...], ["a"]),
    (Mapping[str, int], OrderedDict(a=1)),
    (Mapping[str, int], [("a", 1)]),
    (Mapping[str, int], {1: 1}),
    (Mapping[str, int], {"a": "b"}),
    (Mapping[str, int], {str(number): 1 for number in range(100_001)}),
    (float | None, 1),
    (Literal[1, 3], True),
    (Literal[1, 3], 2),
    (Charter, SimpleNamespace(**vars(CHARTER))),
    (Charter, vars(CHARTER)),
    (Charter, type("Charter", (Charter,), {})(**vars(CHARTER))),
    (NDArray[np.float32], np.zeros(3, np.int32)),
    (NDArray[np.float32], np.zeros(3, ">f4")),
    (NDArray[np.float32], np.zeros((1, 3), np.float32)),
    (NDArray[np.float32], np.zeros(6, np.float32)[::2]),
    (NDArray[np.float32], np.broadcast_to(np.float32(0), 3)),
    (NDArray[np.float32], np.zeros(3, np.float32).view(np.recarray)),
    (NDArray[np.float32], np.ma.zeros(3, np.float32)),
    (NDArray[np.float32], [0.0]),
]


@pytest.mark.parametrize(("hint", "value"), REFUSED, ids=[f"{number}-{type(value).__name__}" for number, (_, value) in enumerate(REFUSED)])
def test_what_is_not_exactly_of_the_type_is_refused_and_not_quoted(hint: Any, value: Any) -> None:
    with pytest.raises(ProtocolError) as error:
        canonical(hint, value)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("text", ["", "äß 字", "a\u3000b", "a\u00a0b", 1000 * "a"])
def test_text_of_any_script_is_taken(text: str) -> None:
    assert canonical(str, text) == text


def test_a_list_becomes_a_tuple_where_either_is_declared() -> None:
    names = ["a", "b"]
    assert canonical(Sequence[str], names) == ("a", "b") == canonical(Sequence[str], ("a", "b"))


def test_a_whole_public_key_is_longer_than_other_texts() -> None:
    assert len(DRIVER.document) > module.LONGEST_TEXT and canonical(PublicIdentity, DRIVER) == DRIVER
    for odd in (replace(DRIVER, name=DRIVER.document), replace(DRIVER, document=20_000 * "a")):
        with pytest.raises(Unreadable):
            canonical(PublicIdentity, odd)


def changed(**sections: object) -> Settings:
    return SETTINGS.model_copy(update=sections)


class Lax(PrivacySettings):
    @property
    def is_by_site(self) -> bool:
        return False


def shadowed() -> Settings:
    settings = changed()
    settings.__dict__["model_dump"] = lambda **_: {}
    return settings


ODD_SETTINGS: dict[str, Any] = {
    "a namespace": changed(privacy=SimpleNamespace(unit="patient", is_on=False, is_by_site=False)),
    "a subclass": changed(privacy=Lax()),
    "a mapping": changed(privacy={}),
    "another section": changed(privacy=RunSettings()),
    "a value beyond its bounds": changed(training=SETTINGS.training.model_copy(update={"batch_size": 0})),
    "a truth value for a number": changed(training=SETTINGS.training.model_copy(update={"batch_size": True})),
    "a string for a truth value": changed(secure_aggregation=SETTINGS.secure_aggregation.model_copy(update={"enabled": "no"})),
    "sections that contradict each other": changed(
        privacy=SETTINGS.privacy.model_copy(update={"unit": "patient", "noise_multiplier": 1.0}),
        training=SETTINGS.training.model_copy(update={"class_weights": True}),
    ),
    "a missing section": Settings.model_construct(),
    "a method of its own": shadowed(),
    "a value more": changed(more=1),
}
ODD_SETTINGS["a missing section"].__dict__.pop("privacy")


@pytest.mark.parametrize("name", ODD_SETTINGS)
def test_settings_are_validated_again(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"^charter\.settings"):
        canonical_arguments(visits.join, (replace(CHARTER, settings=ODD_SETTINGS[name]), ["a"]), {})


def test_an_error_names_the_declared_field() -> None:
    odd = replace(SESSION, charter=replace(CHARTER, account=Account(Path("books"), float("nan"))))
    with pytest.raises(Unreadable, match=r"^session\.charter\.account\.max_epsilon is not") as error:
        canonical_arguments(visits.train, (odd, TASK, GlobalModel(0, np.zeros(1, np.float32), np.zeros(1, np.float32))), {})
    assert error.value.where == "session.charter.account.max_epsilon"


def test_nothing_of_a_stranger_is_called() -> None:
    called: list[str] = []

    class Trap:
        def __getattribute__(self, name: str) -> Any:
            if name == "__class__":
                return Charter
            called.append(name)
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            called.append("==")
            return True

        def __hash__(self) -> int:
            called.append("hash")
            return 0

    for hint in (Charter, Settings, str, int, float, bool, bytes, Path, type(None), Sequence[str], Mapping[str, str], Literal["a"]):
        with pytest.raises(Unreadable):
            canonical(hint, Trap())
    with pytest.raises(Unreadable):
        canonical(NDArray[np.float32], Trap())
    assert called == []


def test_arguments_are_taken_by_place_and_by_name() -> None:
    assert canonical_arguments(visits.join, (CHARTER,), {"sites": ["a"]}) == {"charter": CHARTER, "sites": ("a",)}
    for arguments, named in (((), {}), ((CHARTER, ["a"], 1), {}), ((CHARTER,), {"places": ["a"]}), ((CHARTER, ["a"]), {"sites": ["a"]})):
        with pytest.raises(Unreadable, match="the list of arguments"):
            canonical_arguments(visits.join, arguments, named)


def test_zero_has_no_sign() -> None:
    """Else a setting could change in a bit that changes nothing, and be other work."""
    assert copysign(1.0, canonical(float, -0.0)) == 1.0
    changed = SETTINGS.augmentation.model_copy(update={"shear": -0.0, "rotation": -0.0})
    copy = canonical(Settings, SETTINGS.model_copy(update={"augmentation": changed})).augmentation
    assert copysign(1.0, copy.shear) == copysign(1.0, copy.rotation) == 1.0
