"""The reference page is current and complete."""

from __future__ import annotations

from pathlib import Path

from primia.config.fields import SECTIONS, keys_of
from primia.config.reference import reference_markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_markdown(), "run: make docs"


def test_every_key_has_a_row_and_every_table_four_columns() -> None:
    page = reference_markdown()
    for name, section in SECTIONS.items():
        assert f"## [{name}]" in page
        assert all(field.description for field in section.model_fields.values())
        for key in keys_of(name):
            assert f"| `{key.split('.')[1]}` |" in page
    assert {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")} == {5}


def test_needs_stand_in_the_description() -> None:
    assert "| Momentum. Needs `training.optimizer = sgd`. |" in reference_markdown()


def test_the_space_is_explained_and_is_no_key() -> None:
    page = reference_markdown()
    assert "| `space` |" not in page
    assert "(search-space.md)" in page
    assert PAGE.with_name("search-space.md").is_file()
