from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from primia.cluster.session import _own_token, _store, ray_session, set_environment
from primia.errors import ClusterError


def test_a_token_is_fresh_and_for_this_user_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = (_own_token(tmp_path_factory.mktemp("token")) for _ in range(2))
    paths = [Path(variables["RAY_AUTH_TOKEN_PATH"]) for variables in (first, second)]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
    tokens = [path.read_text() for path in paths]
    assert len(set(tokens)) == 2 and all(len(token) == 64 for token in tokens)


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIMIA_A", "before")
    monkeypatch.delenv("PRIMIA_B", raising=False)
    with set_environment({"PRIMIA_A": "inside", "PRIMIA_B": "inside"}):
        assert os.environ["PRIMIA_A"] == os.environ["PRIMIA_B"] == "inside"
    assert os.environ["PRIMIA_A"] == "before" and "PRIMIA_B" not in os.environ


def test_the_object_store_has_a_floor_and_a_ceiling() -> None:
    assert _store(0) == 256 * 2**20
    assert 256 * 2**20 <= _store(2**60) < 2**45


def test_an_address_where_nobody_listens_fails_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClusterError, match=rf"cannot attach to the Ray cluster at 127\.0\.0\.1:{port}"), ray_session(f"127.0.0.1:{port}"):
        pass


def test_what_is_no_address_is_said() -> None:
    with pytest.raises(ClusterError, match=r"'nonsense' is not the address .* HOST:PORT"), ray_session("nonsense"):
        pass
    with pytest.raises(ClusterError, match=r"'ray://a:1' is an address for Ray's clients; give HOST:PORT"), ray_session("ray://a:1"):
        pass
