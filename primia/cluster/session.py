"""A Ray cluster for the length of a command: one of its own, or one that runs already.

Traps handled here (Ray 2.60): plain ``ray.init()`` attaches to whatever a stale file names; starting a
cluster writes a world-readable token into the home folder unless a token file is named; Ray's ports listen on
all interfaces, so the token matters on a laptop too; a wrong token is reported as a bare connection error.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primia.errors import ClusterError
from primia.files import private_umask

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "1"}
_SMALLEST_STORE_BYTES = 256 * 2**20
_STORE_FRACTION = 0.4
_CONNECT_S = 5.0
_LONGEST_FOLDER = 24  # Ray's sockets lie 65 characters deeper, and a Unix socket's path ends at 103 or 107


@dataclass(frozen=True)
class ClusterResources:
    """What a cluster offers in all, and where its dashboard is (empty where it has none), with the file of the token that opens it."""

    cpus: int
    gpus: int
    dashboard_url: str = ""
    token: str = ""


@contextmanager
def ray_session(address: str | None = None, *, store_bytes: int = 0, dashboard: bool = False) -> Iterator[ClusterResources]:
    """Start a local cluster, or attach to the one at ``address``; leaves no process of its own behind.

    ``store_bytes``: object store wanted for a local cluster; it is kept between 256 MiB and 40 % of shared memory. ``dashboard``: whether a
    local cluster has one.

    Raises:
        ClusterError: the cluster cannot be reached or started.
    """
    with tempfile.TemporaryDirectory(prefix="primia-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        variables = dict(_QUIET) if address else _QUIET | _own_token(Path(folder))
        with set_environment(variables):
            if address:
                _check_reachable(address)
            import ray  # after the variables: Ray reads some of them when it is imported

            _reread_authentication()
            url = _init(ray, address, store_bytes, _ray_folder(Path(folder)), dashboard=dashboard)
            try:
                total = ray.cluster_resources()  # type: ignore[no-untyped-call]
                yield ClusterResources(int(total.get("CPU", 1)), int(total.get("GPU", 0)), url, os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
            finally:
                ray.shutdown()


def _reread_authentication() -> None:
    """Make Ray see the token of this session: it keeps mode and token from its first import or first cluster."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_reachable(address: str) -> None:
    """Say at once that nobody listens at ``address``: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address:
        raise ClusterError(f"{address!r} is an address for Ray's clients; give HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    if not host or not port.isdigit():
        raise ClusterError(f"{address!r} is not the address of a Ray cluster; give HOST:PORT of its head, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"cannot attach to the Ray cluster at {address}: {error}; check the address, and that the cluster is up"
        ) from None


def _init(ray: Any, address: str | None, store_bytes: int, folder: Path, *, dashboard: bool) -> str:
    """Start a cluster with its files in ``folder``, or attach; the dashboard's URL.

    Ray opens its session's folder to everybody, whatever the umask: hence one that lies in a folder of this user's alone.
    """
    options: dict[str, object] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "primia"}
    if address:
        options["address"] = address
    else:
        options |= {
            "address": "local",
            "include_dashboard": dashboard,
            "object_store_memory": _store(store_bytes),
            "_temp_dir": str(folder),
        }
    try:
        with private_umask():  # the cluster's processes take it over, and with it their logs
            host = ray.init(**options).dashboard_url
    except Exception as error:  # Ray raises just that where a node does not come up in time
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if address:
            raise ClusterError(
                f"cannot attach to the Ray cluster at {address}: {first}; check the address, and that RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH name the cluster's token where it asks for one"
            ) from None
        raise ClusterError(f"cannot start Ray on this machine: {first}") from error
    return f"http://{host}" if host else ""


def _own_token(folder: Path) -> dict[str, str]:
    """A fresh token in a file that only this user can read, and that goes with the cluster."""
    path = folder / "token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _short_folder() -> str | None:
    """Where temporary folders go; None: the usual place."""
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER and Path("/tmp").is_dir() else None


def _ray_folder(folder: Path) -> Path:
    return folder / "r"


def _store(wanted: int) -> int:
    statistics = os.statvfs("/dev/shm") if Path("/dev/shm").exists() else os.statvfs(tempfile.gettempdir())
    limit = int(statistics.f_bavail * statistics.f_frsize * _STORE_FRACTION)
    return max(_SMALLEST_STORE_BYTES, min(wanted, limit))


@contextmanager
def set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These environment variables, and afterwards those that were before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
