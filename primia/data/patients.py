"""Patient ids from file names, so that a split never tears a patient apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import PurePath

from primia.errors import DataError

_SECONDS = 30
"""Time for all names of a folder; a million take two seconds."""

_SEARCH = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
pattern, *names = json.load(sys.stdin)
search = re.compile(pattern).search
print(json.dumps([match and match[1] for match in map(search, names)]))
"""

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
    names = [PurePath(file).name for file in files]
    found = _known(names) if pattern == "auto" else _by(pattern, names)
    if pattern != "auto" and files and not any(found):
        raise DataError(
            f"data.patient_pattern = {pattern!r} fits no file name, the first being {PurePath(files[0]).name!r}; mend it or use auto"
        )
    return [patient or file for patient, file in zip(found, files, strict=True)]


def _known(names: Sequence[str]) -> list[str | None]:
    expressions = [re.compile(known) for known in KNOWN_PATTERNS]
    matches = ((expression.search(name) for expression in expressions) for name in names)
    return [next((match.group(1) for match in found if match), None) for found in matches]


def _by(pattern: str, names: Sequence[str]) -> list[str | None]:
    """The group in each name, searched for in a process of its own, which can be ended.

    The expression may be that of a run that somebody else made, and one that goes back and forth takes longer than anybody waits.
    """
    call = [sys.executable, "-I", "-S", "-c", _SEARCH]
    try:
        done = subprocess.run(call, input=json.dumps([pattern, *names]), capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise DataError(
            f"data.patient_pattern = {pattern!r} takes more than {_SECONDS} seconds for {len(names)} file names; write it without repeats "
            "of what repeats, such as (a+)+"
        ) from None
    except subprocess.CalledProcessError:
        raise DataError(f"data.patient_pattern = {pattern!r} cannot be searched for; write a simpler one") from None
    found: list[str | None] = json.loads(done.stdout)
    return found
