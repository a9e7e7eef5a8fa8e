"""Run folders, as in the tests of the report."""

from __future__ import annotations

import runpy
from pathlib import Path

make_run = runpy.run_path(str(Path(__file__).parents[1] / "report" / "conftest.py"))["_make_run"]
