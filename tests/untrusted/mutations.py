"""Changes that somebody could make to files that this project reads: damage, absurd values, and what is no file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEEP = "[" * 100_000 + "]" * 100_000
VALUES = (
    10**9, -1, 0, 2**63, 10**30, 1e308, 1e-320, -0.5, float("nan"), float("inf"), None, True, "", "../outside/kept.json", "/etc/passwd",
    "round-000001.safetensors\n", "\x00\x1b[2J", "x" * 100_000, [], {}, [[]], {"a": 1}, [1e9] * 5, ["a"] * 20_000, list(range(30)),
)  # fmt: skip

COLUMNS = (float("inf"), float("nan"), -1.0, 1e308, -1, 2**62, "a", "x" * 30_000, b"a", None, True, [1], {"a": 1}, {"a": [{"b": "c"}]})


class Mutator:
    """Makes one change at a time, drawn from a seed; links lead to ``outside``."""

    def __init__(self, seed: int, outside: Path) -> None:
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._outside = outside

    def change(self, root: Path) -> str:
        """Change something in ``root``, and say what."""
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
        path = files[self._rng.integers(len(files))]
        self._root = root
        kinds = [self._bytes, self._bytes, self._place]
        if path.suffix in (".json", ".jsonl", ".head"):
            kinds += [self._json] * 6
        if path.suffix == ".ini":
            kinds += [self._setting] * 2
        if path.suffix == ".safetensors":
            kinds += [self._header] * 3
        if path.suffix == ".parquet":
            kinds += [self._column] * 6
        kind = kinds[self._rng.integers(len(kinds))]
        return f"{path.relative_to(root)}: {kind(path)}"

    def _pick(self, choices: Any) -> Any:
        return choices[self._rng.integers(len(choices))]

    def _bytes(self, path: Path) -> str:
        data = bytearray(path.read_bytes())
        what = self._pick(("flip", "flip", "flip", "cut", "empty", "longer", "noise"))
        if what == "flip":
            for _ in range(self._rng.integers(1, 9)):
                data[self._rng.integers(len(data))] ^= 1 << int(self._rng.integers(8)) if data else 0
        elif what == "cut":
            del data[self._rng.integers(len(data) + 1) :]
        elif what == "empty":
            data.clear()
        elif what == "longer":
            data += self._rng.bytes(100)
        else:
            data = bytearray(self._rng.bytes(500))
        path.write_bytes(data)
        return what

    def _place(self, path: Path) -> str:
        """Something else where a file belongs, or a link where a folder does."""
        what = self._pick(("link", "link to nothing", "link to a folder", "folder", "fifo", "device", "gone", "sparse", "folder's link"))
        if what == "sparse":
            os.truncate(path, 2**34)
            return what
        if what == "folder's link" and path.parent == self._root:
            what = "gone"
        if what == "folder's link":
            kept = self._outside / "folder"
            shutil.rmtree(path.parent)
            path.parent.symlink_to(kept)
            return what
        path.unlink()
        makers: dict[str, Callable[[], object]] = {
            "link": lambda: path.symlink_to(self._outside / "kept.json"),
            "link to nothing": lambda: path.symlink_to(self._outside / "absent"),
            "link to a folder": lambda: path.symlink_to(self._outside / "folder"),
            "folder": path.mkdir,
            "fifo": lambda: os.mkfifo(path),
            "device": lambda: path.symlink_to("/dev/zero"),
            "gone": lambda: None,
        }
        makers[what]()
        return what

    def _json(self, path: Path) -> str:
        text = path.read_text(encoding="utf-8", errors="replace").partition("\n" if path.suffix == ".jsonl" else "\x00")[0]
        try:
            document = json.loads(text)
        except ValueError:
            return self._bytes(path)
        if self._rng.random() < 0.05:
            path.write_text(DEEP)
            return "deep"
        holder, key = self._leaf(document)
        if holder is None:
            return self._bytes(path)
        if self._rng.random() < 0.15:
            del holder[key]
            said = f"without {key}"
        else:
            value = "\udcff" if self._rng.random() < 0.02 else self._pick(VALUES)
            holder[key] = value
            said = f"{key} = {str(value)[:40]!r}"
        path.write_text(json.dumps(document))
        return said

    def _leaf(self, document: Any) -> tuple[Any, Any]:
        """A place somewhere in a document."""
        holder, key, value = None, None, document
        while isinstance(value, dict | list) and value and (holder is None or self._rng.random() < 0.8):
            holder, key = value, self._pick(list(value) if isinstance(value, dict) else range(len(value)))
            value = holder[key]
        return holder, key

    def _column(self, path: Path) -> str:
        """A column of another type, of absurd values, of another name, or none."""
        table = pq.read_table(path)
        place = int(self._rng.integers(table.num_columns))
        name, value = table.column_names[place], self._pick(COLUMNS)
        what = self._pick(("value", "value", "value", "one value", "name", "none", "rows"))
        if what == "value":
            table = table.set_column(place, name, pa.array([value] * table.num_rows))
        elif what == "one value":
            with contextlib.suppress(pa.ArrowException, TypeError, OverflowError):
                column = [value, *table.column(place).to_pylist()[1:]]
                table = table.set_column(place, name, pa.array(column, table.schema.field(place).type))
        elif what == "name":
            table = table.rename_columns([*table.column_names[:place], "param.__class__", *table.column_names[place + 1 :]])
        elif what == "none":
            table = table.remove_column(place)
        else:
            table = pa.table({each.name: pa.nulls(1_000_000, each.type) for each in table.schema})
        pq.write_table(table, path)
        return f"{what} of {name}: {str(value)[:20]!r}"

    def _setting(self, path: Path) -> str:
        lines = path.read_text().splitlines()
        places = [number for number, line in enumerate(lines) if " = " in line]
        place, value = self._pick(places), str(self._pick(VALUES)).replace("\n", " ")[:2000]
        lines[place] = f"{lines[place].partition(' = ')[0]} = {value}"
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        return lines[place][:80]

    def _header(self, path: Path) -> str:
        """A safetensors header that promises something else."""
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        holder, key = self._leaf(header)
        if holder is None:
            return self._bytes(path)
        holder[key] = self._pick((10**12, -1, [10**9, 10**9], "F8", [0, 2**40], None, 1.5, [[1]], "F64"))
        new = json.dumps(header).encode()
        length = int(self._pick((len(new), len(new), len(new), 2**62, 0)))
        path.write_bytes(length.to_bytes(8, "little") + new + data[8 + size :])
        return f"header {key} = {holder[key]!r}"
