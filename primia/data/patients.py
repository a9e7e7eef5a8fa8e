"""Patient ids from file names, so that a split never tears a patient apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from primia.errors import DataError

KNOWN_PATTERNS = (r"^(person\d+)_", r"^(?:NORMAL\d*-)?(IM-\d+)-")
"""The public chest X-rays: ``person123_bacteria_45.jpeg``; ``IM-0115-0001.jpeg`` and ``NORMAL2-IM-0501-0001-0002.jpeg``."""


def patient_ids(files: Sequence[str], pattern: str) -> list[str]:
    """Patient of each of ``files`` (paths relative to the data folder); the pattern is applied to the file name.

    ``auto`` applies :data:`KNOWN_PATTERNS`, ``file`` makes each file its own patient, anything else is a
    regular expression whose one group is the id (the settings check that it has one). A file that no
    pattern fits is its own patient; :class:`DataError` if an expression fits no file at all.
    """
    if pattern == "file":
        return list(files)
    expressions = [re.compile(known) for known in KNOWN_PATTERNS] if pattern == "auto" else [re.compile(pattern)]
    found = [_first_group(expressions, PurePath(file).name) for file in files]
    if pattern != "auto" and files and not any(found):
        raise DataError(
            f"data.patient_pattern = {pattern!r} fits no file name, the first being {PurePath(files[0]).name!r}; mend it or use auto"
        )
    return [patient or file for patient, file in zip(found, files, strict=True)]


def _first_group(expressions: Sequence[re.Pattern[str]], name: str) -> str | None:
    matches = (expression.search(name) for expression in expressions)
    return next((match.group(1) for match in matches if match), None)
