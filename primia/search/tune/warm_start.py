"""What a search knows before its first trial: finished trials of earlier sweeps, and known good settings that it tries first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from primia.config.reader import differences, load_config
from primia.config.settings import SearchSettings, Settings
from primia.data.closed import refuse_box
from primia.errors import RunError
from primia.runs.folder import unreadable
from primia.search.folder import SweepFolder
from primia.search.records import State, TrialRecord, Value, second_objective
from primia.search.space.space import Space
from primia.untrusted.documents import parse_json, validated
from primia.untrusted.files import printable, read_file


@dataclass(frozen=True)
class Known:
    """A point of the space, by ``section.key``; ``objectives``: what came of it, empty where it is to be tried first."""

    parameters: Mapping[str, Value]
    objectives: tuple[FiniteFloat, ...] = ()


_KNOWN = TypeAdapter(list[Known])


def objectives(record: TrialRecord, space: Space) -> tuple[float, ...]:
    """What a trial came to, one number for each objective of the search; empty where one is missing."""
    wanted = (record.value,) if space.base.search.second_objective == "none" else (record.value, record.second)
    return tuple(value for value in wanted if value is not None) if None not in wanted else ()


def known_from_start(space: Space) -> tuple[list[Known], list[str]]:
    """The points of this space that ``search.warm_start`` names, and what is to be said of each file and sweep there.

    Raises:
        RunError: one is neither a file nor a sweep's folder.
        ConfigError: a file is no configuration.
    """
    known: list[Known] = []
    notices: list[str] = []
    for path in map(Path, space.base.search.warm_start):
        found, said = _of_file(path, space) if path.is_file() else _of_sweep(path, space)
        known += found
        notices += said
    return known, notices


def dump_known(known: list[Known]) -> str:
    """As it is kept, so that a resumed sweep goes on as it began, whatever has become of its sources."""
    return _KNOWN.dump_json(known, indent=1).decode()


def read_known(path: Path, space: Space) -> list[Known]:
    """What was kept, as far as it is points of the space.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        known: list[Known] = validated(_KNOWN, parse_json(read_file(path)))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); was the folder copied whole?") from None
    except ValueError as error:
        raise unreadable(path, printable(error)) from None
    count = 1 if space.base.search.second_objective == "none" else 2
    return [each for each in known if len(each.objectives) in (0, count) and space.replay(each.parameters)]


def _of_file(path: Path, space: Space) -> tuple[list[Known], list[str]]:
    refuse_box(path)
    point = space.point(load_config(path))
    if point is None:
        return [], [f"{path} is not tried: its settings lie outside the space"]
    return [Known(point)], [f"{path} is among the first that are tried"]


def _of_sweep(path: Path, space: Space) -> tuple[list[Known], list[str]]:
    if not path.exists():
        raise RunError(f"search.warm_start: there is no {path}; give an earlier sweep's folder, or an .ini file")
    sweep = SweepFolder.open(path)
    kind = space.base.search.second_objective
    records = [replace(each, second=second_objective(kind, each.bytes, each.epsilon)) for each in sweep.records()]
    complete = [record for record in records if record.state is State.COMPLETE and objectives(record, space)]
    fitting = [Known(record.parameters, objectives(record, space)) for record in complete if space.replay(record.parameters)]
    said = f"{len(fitting)} of {len(complete)} finished trials of {path} are known from the start"
    other = _other_conditions(sweep.settings(), space)
    return fitting, [said, *([f"{path} had other settings, so its results may not compare: {'; '.join(other)}"] if other else [])]


def _other_conditions(settings: Settings, space: Space) -> list[str]:
    """Settings beside the searched ones in which an earlier sweep differs."""
    lines = differences(_bare(settings), _bare(space.base))
    return [line for line in lines if line.partition(":")[0] not in space.names and not line.startswith(("run.", "resources."))]


def _bare(settings: Settings) -> Settings:
    return settings.model_copy(update={"search": SearchSettings()})
