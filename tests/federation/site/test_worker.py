from __future__ import annotations

import traceback

import pytest

from primia.errors import ConfigError, DataError, ProtocolError
from primia.federation.refusals import Kind
from primia.federation.site.worker import FederatedWorker


class Host:
    """Raises what it is asked to."""

    def __call__(self, method: str, error: Exception) -> None:
        raise error


def worker() -> FederatedWorker:
    made = FederatedWorker.__new__(FederatedWorker)
    made._host = Host()  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("error", [ValueError("61 rows"), DataError("/box/site-2: 61 rows"), ProtocolError("61 rows"), KeyError("61")])
def test_an_error_that_escapes_a_host_leaves_without_its_words(error: Exception) -> None:
    with pytest.raises(RuntimeError) as raised:
        worker().call("work", error)
    assert str(raised.value) == Kind.FAILED.value
    assert "61" not in "".join(traceback.format_exception(raised.value))


def test_what_follows_from_the_settings_is_said() -> None:
    with pytest.raises(ConfigError, match="set it to"):
        worker().call("work", ConfigError("set it to group"))
