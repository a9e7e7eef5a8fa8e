"""Packed shards, as in the tests of the federation."""

from __future__ import annotations

import runpy
from pathlib import Path

packed = runpy.run_path(str(Path(__file__).parents[1] / "federation" / "conftest.py"))["packed"]
