"""The package's front door."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import primia
from primia.config.reader import load_config
from primia.config.settings import Settings


def test_names_are_resolved_on_first_use() -> None:
    assert primia.load_config is load_config
    assert primia.Settings is Settings
    assert set(primia.__all__) <= set(dir(primia))


def test_every_public_name_exists() -> None:
    for name in primia.__all__:
        assert getattr(primia, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(primia, "nonsense")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert metadata.version("primia") == primia.__version__


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import primia, sys; print([m for m in ('torch', 'ray', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
