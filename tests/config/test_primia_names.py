"""PriMIA's names lead to existing keys."""

from __future__ import annotations

import pytest

from primia.config.fields import SECTIONS, keys
from primia.config.primia_names import NEW_NAMES, PRIMIA_SECTIONS
from primia.config.reader import load_config
from primia.errors import ConfigError


@pytest.mark.parametrize(("old", "new"), NEW_NAMES.items())
def test_an_old_key_is_told_its_new_name(old: str, new: str) -> None:
    assert new in keys()
    assert old not in keys()
    with pytest.raises(ConfigError, match=f"{old} is PriMIA's name.*{new}"):
        load_config(None, [f"{old}=1"])


def test_an_old_key_without_counterpart_is_told_so() -> None:
    with pytest.raises(ConfigError, match="no counterpart"):
        load_config(None, ["albumentations.fog=yes"])


def test_old_sections_are_not_ours() -> None:
    assert not PRIMIA_SECTIONS & set(SECTIONS)
