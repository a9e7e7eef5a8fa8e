from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from primia.data.decode import BadImage
from primia.data.statistics import Normalisation
from primia.errors import ProtocolError, RunError
from primia.inference.images import InferenceImages
from primia.inference.keystore import ReadyBatch
from primia.inference.lead import Inference, Journal, Lead, batch_size, infer_images, prepare_keys
from primia.inference.output import read_table
from primia.inference.predictions import Failure
from primia.inference.service import BatchResult, Mode, ServiceOptions
from primia.mpc.compiler import Compiled
from primia.mpc.data_owner import Result
from primia.mpc.messages import Role
from primia.mpc.program import Program
from primia.mpc.ring import Ring, signed

ABOUT = {"plan": "p", "data": "d"}
NORMALISATION = Normalisation((0.0,), (1.0,))
TOO_BRIGHT = 200


def logits_of(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of an image all of whose pixels are the same."""
    return np.array([pixels.mean(), 0.5, -pixels.mean()])


@dataclass
class Service:
    """Stands for the protocol: answers from a function of the images, out of range where one is too bright."""

    program: Program
    options: ServiceOptions = field(default_factory=ServiceOptions)
    ready: list[ReadyBatch] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    fail_after: int = 1000

    def stored(self) -> SimpleNamespace:
        return SimpleNamespace(ready=lambda: self.ready)

    def submit(self, batch: int, images: Ring) -> Future[BatchResult]:
        self.used.append(batch)
        return self.request(images)

    def request(self, images: Ring) -> Future[BatchResult]:
        future: Future[BatchResult] = Future()
        if len(self.asked) >= self.fail_after:
            future.set_exception(ProtocolError("the dealer died"))
            return future
        values = np.moveaxis(signed(images, self.program.bits) / 2**self.program.fraction_bits, 1, 0)
        self.asked.append([round(image.mean() * 255) for image in values])
        layer = "features.0" if values.max() * 255 > TOO_BRIGHT else ""
        future.set_result(BatchResult(Result(np.stack([logits_of(image) for image in values]), layer), 0.25, 0.5))
        return future


@dataclass(frozen=True, eq=False)
class Images(InferenceImages):
    """All pixels of image ``i`` are ``levels[i]``; a level of -1 cannot be read."""

    levels: tuple[int, ...] = ()

    def read(self, index: int) -> NDArray[np.uint8]:
        if self.levels[index] < 0:
            raise BadImage(self.paths[index], "cut short")
        return np.full((1, self.image_size, self.image_size), self.levels[index], np.uint8)


def images_of(levels: Sequence[int]) -> Images:
    names = tuple(f"{index:02}.png" for index in range(len(levels)))
    return Images(Path(), names, None, tuple(map(Path, names)), channels=1, image_size=16, levels=tuple(levels))


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> int:
    """Images a batch."""
    monkeypatch.setattr("primia.inference.lead.batch_size", lambda program: 3)
    return 3


@pytest.fixture
def lead(compiled: Compiled, tmp_path: Path, size: int) -> Callable[..., tuple[Lead, Service]]:
    def make(levels: Sequence[int], *, resume: bool = False, mode: Mode = Mode.STREAM, **options: Any) -> tuple[Lead, Service]:
        service = Service(compiled.program, **options)
        journal = Journal(tmp_path / "journal", ABOUT, resume=resume)
        seen: list[tuple[int, int]] = []
        made = Lead(service, mode, images_of(levels), NORMALISATION, journal, lambda *call: seen.append(call))  # type: ignore[arg-type]
        made.seen = seen  # type: ignore[attr-defined]
        return made, service

    return make


Make = Callable[..., Any]


def expected(levels: Sequence[int]) -> NDArray[np.float64]:
    return np.stack([logits_of(np.array(level / 255)) for level in levels])


def test_every_image_gets_its_own_outputs_in_batches(lead: Make) -> None:
    levels = [10, 90, 20, 80, 30, 70, 40]
    made, service = lead(levels)
    made.run()
    assert made.logits == pytest.approx(expected(levels), abs=2e-3) and made.failures == {}
    assert service.asked == [[10, 90, 20], [80, 30, 70], [40]]
    assert made.seen[0] == (0, 7) and made.seen[-1] == (7, 7) and made.seen == sorted(made.seen)
    assert (made.measures.images, made.measures.online_s) == ([3, 3, 1], [0.25] * 3)


@pytest.mark.parametrize("bad", [(0,), (1, 2), (3, 4, 5), tuple(range(7))])
def test_unreadable_images_are_named_and_the_rest_go_on(lead: Make, bad: tuple[int, ...]) -> None:
    made, service = lead([-1 if index in bad else 10 * index for index in range(7)])
    made.run()
    assert made.failures == {index: Failure("unreadable", "cut short") for index in bad}
    good = [index for index in range(7) if index not in bad]
    assert list(chain(*service.asked)) == [10 * index for index in good]
    assert all(made.logits[index] == pytest.approx(expected([10 * index])[0], abs=2e-3) for index in good)
    assert np.isnan(made.logits[list(bad)]).all()


def test_images_of_a_batch_out_of_range_are_asked_for_again_one_by_one(lead: Make) -> None:
    made, service = lead([10, 250, 20, 30, 40])
    made.run()
    assert sorted(service.asked[:2]) == [[10, 250, 20], [30, 40]] and sorted(service.asked[2:]) == [[10], [20], [250]]
    assert set(made.failures) == {1} and made.failures[1].status == "out of range"
    assert "layer features.0" in made.failures[1].reason and "--calibration" in made.failures[1].reason
    assert made.logits[[0, 2, 3, 4]] == pytest.approx(expected([10, 20, 30, 40]), abs=2e-3)


def test_a_resume_redoes_only_what_is_missing(lead: Make) -> None:
    levels = [10, -1, 20, 30, 40, 50, 60, 250]
    made, _ = lead(levels, fail_after=1)
    with pytest.raises(ProtocolError, match="the dealer died"):
        made.run()
    made, service = lead(levels, resume=True)
    made.run()
    assert service.asked == [[40, 50, 60], [250]]
    assert set(made.failures) == {1, 7}
    assert made.logits[[0, 2, 3, 4, 5, 6]] == pytest.approx(expected([10, 20, 30, 40, 50, 60]), abs=2e-3)
    made, service = lead(levels, resume=True)
    made.run()
    assert service.asked == [] and set(made.failures) == {1, 7} and made.seen[-1] == (8, 8)


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_journal_with_its_last_line_cut_short_goes_on_and_again(lead: Make, tmp_path: Path, cut: int) -> None:
    levels, journal = [10, 20, 30, 40, 50], tmp_path / "journal"
    made, _ = lead(levels, fail_after=1)
    with pytest.raises(ProtocolError):
        made.run()
    journal.write_bytes(journal.read_bytes()[:-cut])
    made, service = lead(levels, resume=True)
    made.run()
    assert list(chain(*service.asked)) == [30, 40, 50]
    assert made.logits == pytest.approx(expected(levels), abs=2e-3)
    made, service = lead(levels, resume=True)
    made.run()
    assert service.asked == [], "every line that was added is whole"


@pytest.mark.parametrize("first", [json.dumps(ABOUT | {"plan": "q"}), json.dumps(ABOUT | {"data": "e"}), '{"plan": "p', "", "[]"])
def test_the_journal_of_another_run_is_refused(tmp_path: Path, first: str) -> None:
    (tmp_path / "journal").write_text(first)
    with pytest.raises(RunError, match=r"cannot resume: .*journal is of another run or other images; remove it"):
        Journal(tmp_path / "journal", ABOUT, resume=True)


def test_an_image_that_is_gone_since_is_left_out_of_a_resume(lead: Make) -> None:
    lead([10, 20, 30])[0].run()
    made, service = lead([10, 20], resume=True)
    made.run()
    assert service.asked == [] and made.logits == pytest.approx(expected([10, 20]), abs=2e-3)


def test_a_journal_of_before_counts_for_nothing_without_resume(lead: Make) -> None:
    lead([10, 20])[0].run()
    made, service = lead([30, 40])
    made.run()
    assert service.asked == [[30, 40]]


def test_stored_keys_are_taken_in_order_and_filled_up_with_blanks(lead: Make) -> None:
    ready = [ReadyBatch(7, 3), ReadyBatch(5, 2), ReadyBatch(6, 3)]
    made, service = lead([10, 20, 30, -1, 40], mode=Mode.CONSUME, ready=ready)
    made.run()
    assert service.used == [7, 5] and service.asked == [[10, 20, 30], [40, 0]]
    assert made.logits[[0, 1, 2, 4]] == pytest.approx(expected([10, 20, 30, 40]), abs=2e-3)


def test_too_few_keys_are_noticed_before_any_work(lead: Make) -> None:
    made, service = lead([10, 20, 30, 40, 50], mode=Mode.CONSUME, ready=[ReadyBatch(7, 3)])
    with pytest.raises(ProtocolError, match=r"keys for 3 images are left, and 5 are wanted; make more with --preprocess 2$"):
        made.run()
    assert service.asked == []


def test_keys_that_run_out_on_images_asked_for_again_say_how_to_go_on(lead: Make) -> None:
    made, _ = lead([10, 250, 20], mode=Mode.CONSUME, ready=[ReadyBatch(7, 3), ReadyBatch(8, 1)])
    with pytest.raises(ProtocolError, match=r"no keys are left; .*--preprocess N, then go on with --resume"):
        made.run()
    made, service = lead([10, 250, 20], mode=Mode.CONSUME, ready=[ReadyBatch(9, 1), ReadyBatch(10, 1)], resume=True)
    made.run()
    assert service.asked == [[250], [20]], "what was paid for by the last key is kept"


def test_keys_for_any_number_of_images_are_made_in_batches(compiled: Compiled, size: int) -> None:
    counts: list[int] = []

    class Maker:
        program, options = compiled.program, ServiceOptions(pipeline=1)

        def prepare_keys(self, images: int) -> Future[None]:
            counts.append(images)
            future: Future[None] = Future()
            future.set_result(None)
            return future

    seen: list[tuple[int, int]] = []
    prepare_keys(Maker(), 8, lambda *call: seen.append(call))  # type: ignore[arg-type]
    assert counts == [3, 3, 2] and seen[0] == (0, 8) and seen[-1] == (8, 8)


def test_a_batch_is_as_large_as_its_keys_allow(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiled.program
    assert batch_size(program) == 64
    costs = program.costs()
    for factor, images in ((2**28 / 10, 10), (2**29, 1), (2**28, 1), (2**27, 2)):
        changed = replace(costs, common_key_bytes=int(factor), correction_bytes=0)
        monkeypatch.setattr(Program, "costs", lambda self, changed=changed: changed)
        assert batch_size(program) == images


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_an_inference_writes_predictions_and_removes_its_journal(
    office: Make, compiled: Compiled, kit: SimpleNamespace, tmp_path: Path, suffix: str
) -> None:
    here = office()
    here.serve(Role.MODEL_OWNER, Role.DEALER)
    (kit.put_images(tmp_path / "images", 5) / "01.png").write_text("no image")
    wanted = Inference.beside(tmp_path / "images", tmp_path / f"p.{suffix}", resume=False)
    predictions = infer_images(here.data_owner, Mode.STREAM, wanted, lambda done, total: None, 0.0)
    rows = read_table(wanted.output)
    assert [row["file"] for row in rows] == [f"0{number}.png" for number in range(5)]
    assert [row["status"] for row in rows] == ["ok", "unreadable", "ok", "ok", "ok"]
    assert not wanted.journal.exists() and wanted.journal.parent == wanted.output.parent
    costs = predictions.summary()["encrypted"]
    assert (costs["images"], costs["batches"], costs["batch_images"]) == (4, 1, 4)  # type: ignore[index]
    assert costs["online_bytes_per_image"] == pytest.approx(compiled.program.costs().online_bytes, rel=0.01)  # type: ignore[index]
    assert predictions.summary()["run"] == "run" and predictions.summary()["synthetic"] is True


def test_an_inference_without_images_ends_the_others(office: Make, tmp_path: Path) -> None:
    here = office()
    here.serve(Role.MODEL_OWNER, Role.DEALER)
    with pytest.raises(Exception, match="no images here"):
        infer_images(here.data_owner, Mode.STREAM, Inference.beside(tmp_path, tmp_path / "p.csv", resume=False), print, 0.0)
    for role in (Role.MODEL_OWNER, Role.DEALER):
        with pytest.raises(ProtocolError, match=r"^the data owner failed: DataError, see its own log$"):
            here.ended(role)


def test_a_journal_is_for_this_user_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "folder" / "j", {"plan": "p"}, resume=False)
    assert journal.path.stat().st_mode & 0o777 == 0o600 and journal.path.parent.stat().st_mode & 0o777 == 0o700
