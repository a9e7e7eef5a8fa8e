from __future__ import annotations

from pathlib import Path

import pytest

from primia.untrusted.files import Unusable
from primia.untrusted.yaml_files import LIMIT, check_yaml

LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


def test_what_syft_writes_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("rules:\n- pattern: '**'\n  access:\n    admin: []\n    read:\n    - a@b.example\nterminal: false\n")
    check_yaml(path)
    path.write_text("")
    check_yaml(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "holds an anchor"),
        ("a: *b", "holds an alias"),
        ("a: !!python/object:os.system {}", "holds a tag"),
        ("%YAML 1.1\n---\na: 1", "holds a directive"),
        (30 * "[", "nested more than 20 levels deep"),
        ("\n".join(" " * n + "- " for n in range(0, 100, 2)), "nested more than 20 levels deep"),
        ("a: [", None),
        ("\x00", "no YAML"),
        ("a: 'b", "no YAML"),
    ],
)
def test_what_could_keep_a_reader_busy_is_refused(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    if said is None:
        check_yaml(path)
        return
    with pytest.raises(Unusable, match=said):
        check_yaml(path)


def test_size_and_links(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes((LIMIT + 1) * b"#")
    with pytest.raises(Unusable, match="more than"):
        check_yaml(path)
    (tmp_path / "link.yaml").symlink_to(path)
    with pytest.raises(Unusable, match="link"):
        check_yaml(tmp_path / "link.yaml")
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(Unusable, match="no YAML"):
        check_yaml(path)
