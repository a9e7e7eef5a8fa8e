"""``primia-ray party``: what is checked before any connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from primia.cli.main import app
from primia.errors import ConfigError, ProtocolError, RunError
from primia.inference import party

GOOD = "10.0.0.1:7001"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the commands ask of the library, which connects to nobody."""
    found: dict[str, Any] = {}

    def remember(*arguments: Any, **named: Any) -> None:
        found.update(arguments=arguments, **named)

    for name in ("run_model_owner", "run_dealer"):
        monkeypatch.setattr(party, name, remember)
    return found


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["party", *map(str, arguments)])


def dealer(model_owner: str = GOOD, data_owner: str = GOOD, *more: str) -> Result:
    return call("dealer", "--certificates", "c", "--session", "s", "--model-owner", model_owner, "--data-owner", data_owner, *more)


def test_addresses_and_place_reach_the_library(asked: dict[str, Any]) -> None:
    result = dealer("10.0.0.1:7002", "[::1]:7003", "--wait", "5", "--set", "inference.pipeline=3")
    assert (result.exit_code, result.stdout) == (0, "dealt\n")
    assert asked["model_owner"] == ("10.0.0.1", 7002) and asked["data_owner"] == ("::1", 7003)
    place, settings = asked["arguments"]
    assert (place, settings.pipeline) == (party.Place(Path("c"), "s", 5.0), 3)


@pytest.mark.parametrize("bad", ["", "host", "host:", ":7001", "host:port", "host:0", "host:65535", "host:-1", "host:70000", "http://host"])
def test_what_is_no_address_is_named(asked: dict[str, Any], bad: str) -> None:
    for result in (dealer(model_owner=bad), dealer(data_owner=bad)):
        assert isinstance(result.exception, ConfigError), result.output
        assert str(result.exception) == f"{bad!r} is no address; give HOST:PORT, such as 10.0.0.1:7001"
    assert asked == {}


def test_the_model_owner_takes_the_settings_of_its_run(asked: dict[str, Any], here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "config.ini").write_text("[inference]\npipeline = 5\n")
    result = call("model-owner", "run", "--certificates", "c", "--session", "s", "--calibration", "own")
    assert (result.exit_code, result.stdout) == (0, "served\n")
    assert asked["arguments"][2].pipeline == 5 and asked["calibration"] == Path("own") and asked["listen_at"] == ("0.0.0.0", 7001)


def test_the_data_owner_checks_its_output_first(here: Path) -> None:
    (here / "p.csv").write_text("precious")
    given = ["data-owner", "--data", "flat", "--certificates", "c", "--session", "s", "--model-owner", GOOD, "-o"]
    assert isinstance(call(*given, "p.csv").exception, RunError)
    assert isinstance(call(*given, "p.xlsx").exception, ConfigError)
    missing = call(*given, "q.csv", "--wait", "0.1").exception
    assert isinstance(missing, ProtocolError) and "c/data-owner.pem" in str(missing)
    assert (here / "p.csv").read_text() == "precious"


def test_certificates_are_made_once(here: Path) -> None:
    result = call("certificates", "new")
    assert result.exit_code == 0 and result.stdout.startswith("wrote new: ca.pem for all")
    before = {path.name: path.read_bytes() for path in (here / "new").iterdir()}
    assert len(before) == 8
    assert isinstance(call("certificates", "new").exception, ProtocolError)
    assert {path.name: path.read_bytes() for path in (here / "new").iterdir()} == before
