from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import primia
from primia.config.settings import InferenceSettings
from primia.errors import ProtocolError
from primia.inference.certificates import make_certificates
from primia.inference.lead import Inference
from primia.inference.party import Place, run_data_owner, run_dealer, run_model_owner
from primia.mpc.messages import Role

SETTINGS = InferenceSettings()
SOON_S = 40.0
IMAGES = 6


@dataclass
class World:
    run: Path
    images: Path
    calibration: Path
    certificates: Path
    strangers: Path


@pytest.fixture(scope="module")
def world(kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("party")
    for name in ("certificates", "strangers"):
        make_certificates(folder / name)
    run, images = kit.make_run(folder / "run"), kit.put_images(folder / "images", IMAGES)
    return World(run, images, kit.put_images(folder / "own", 12, seed=4), folder / "certificates", folder / "strangers")


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            first = int(server.getsockname()[1])
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue


def together(world: World, output: Path, **places: Place) -> dict[Role, Future[Any]]:
    """The three parties in threads, each at its place (by default all in one session); all have ended."""
    place = {role: places.get(role.name.lower(), Place(world.certificates, "monday", SOON_S / 4)) for role in Role}
    port = free_ports(3)
    owner, owner_for_dealer, data_owner = (("127.0.0.1", port + number) for number in range(3))
    wanted = Inference.beside(world.images, output, resume=False)
    calls: dict[Role, Callable[[], Any]] = {
        Role.MODEL_OWNER: lambda: run_model_owner(
            world.run, place[Role.MODEL_OWNER], SETTINGS, listen_at=owner, calibration=world.calibration
        ),
        Role.DATA_OWNER: lambda: run_data_owner(
            wanted, place[Role.DATA_OWNER], SETTINGS, model_owner=owner, listen_at=data_owner, report=lambda done, total: None
        ),
        Role.DEALER: lambda: run_dealer(place[Role.DEALER], SETTINGS, model_owner=owner_for_dealer, data_owner=data_owner),
    }
    with ThreadPoolExecutor(3) as pool:
        futures = {role: pool.submit(call) for role, call in calls.items()}
        for future in futures.values():
            future.exception(SOON_S)
    return futures


def told(futures: dict[Role, Future[Any]]) -> dict[Role, str]:
    """What each party is told, in one line."""
    errors = {role: future.exception() for role, future in futures.items()}
    assert all(isinstance(error, ProtocolError) for error in errors.values()), errors
    assert not any("\n" in str(error) for error in errors.values())
    return {role: str(error) for role, error in errors.items()}


def test_three_parties_over_tls_give_the_classes_of_the_model(world: World, tmp_path: Path) -> None:

    futures = together(world, tmp_path / "p.csv")
    predictions = futures[Role.DATA_OWNER].result()
    assert [future.result() for role, future in futures.items() if role is not Role.DATA_OWNER] == [None, None]
    plain = primia.infer(world.run, world.images)
    assert [row.predicted for row in predictions.rows] == [row.predicted for row in plain.rows]
    assert len(plain.rows) == IMAGES
    for found, due in zip(predictions.rows, plain.rows, strict=True):
        assert found.probabilities == pytest.approx(due.probabilities, abs=0.02)
    assert (tmp_path / "p.csv").exists() and predictions.summary()["encrypted"]["images"] == IMAGES  # type: ignore[index]
    for thread in threading.enumerate():
        if thread.name.startswith("from the"):
            thread.join(SOON_S)
            assert not thread.is_alive(), "no reader is left"


@pytest.mark.parametrize("stranger", ["data_owner", "dealer"])
def test_a_certificate_of_another_authority_is_refused_in_one_line(world: World, tmp_path: Path, stranger: str) -> None:
    lines = told(together(world, tmp_path / "p.csv", **{stranger: Place(world.strangers, "monday", 3.0)}))
    assert "shows a certificate that does not hold" in " ".join(lines.values())
    assert not (tmp_path / "p.csv").exists()


def test_parties_of_different_sessions_refuse_each_other(world: World, tmp_path: Path) -> None:
    lines = told(together(world, tmp_path / "p.csv", dealer=Place(world.certificates, "tuesday", 3.0)))
    assert "start all parties with the same session" in lines[Role.DEALER]
    assert not (tmp_path / "p.csv").exists()


def test_a_folder_without_certificates_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"certificate files are missing: .*dealer\.pem|cannot read the certificate .*dealer\.pem"):
        run_dealer(Place(tmp_path, "monday", 1.0), SETTINGS, model_owner=("127.0.0.1", 1), data_owner=("127.0.0.1", 1))


def test_a_party_that_never_comes_is_named(world: World) -> None:
    port = free_ports(2)
    with pytest.raises(ProtocolError, match=r"the (data owner|dealer) did not connect"):
        run_model_owner(
            world.run,
            Place(world.certificates, "monday", 0.3),
            SETTINGS,
            listen_at=("127.0.0.1", port),
            calibration=world.calibration,
        )
