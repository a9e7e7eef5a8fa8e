"""Reading settings from an ``.ini`` file and ``--set`` overrides, writing them back, and comparing them.

Every fault is a :class:`primia.errors.ConfigError` of one line that names where it stands, the key, the value
and what is allowed. Relative paths in a file are relative to the current directory, as those on the
command line are, not to the file.
"""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from primia.config.effects import ineffective, unmet_needs
from primia.config.fields import SECTIONS, form_of, keys, keys_of, parse, render, uncomment, unquoted, value_of
from primia.config.primia_names import NEW_NAMES, PRIMIA_SECTIONS
from primia.config.settings import Settings
from primia.errors import ConfigError
from primia.untrusted.files import Unusable, printable, read_file

OVERRIDE = "--set"
_IN_SPACE = "search."
"""What stands before a searched setting's whole name."""

_RETIRED = {"privacy.clipping": "norms are always those of the gradients that are added"}
"""Keys of earlier versions, which their files may still have, and why there is nothing to choose any more."""

_DEFAULTS = Settings()

_LARGEST = 128 * 2**10
_LONGEST_NAME = 200
"""Bytes of the largest settings file, and letters of the longest name in one."""


class _Given(NamedTuple):
    """A value as somebody wrote it, and where: the file's path, or ``--set``."""

    text: str
    origin: str


def load_config(path: Path | str | None = None, overrides: Sequence[str] = (), *, follow: bool = True) -> Settings:
    """Settings from an ``.ini`` file (None: all defaults) with ``section.key=value`` overrides on top.

    ``follow``: the file may be a link, since the user names it; not so one in a folder that somebody else may have made.

    Raises:
        ConfigError: one line that says what is wrong, where, and what is allowed.
    """
    return read_config(Path(path) if path else None, overrides, follow=follow)[0]


def read_config(path: Path | None = None, overrides: Sequence[str] = (), *, follow: bool = True) -> tuple[Settings, list[str]]:
    """As :func:`load_config`, and one line for each given key that has no effect in the chosen mode."""
    given = (_from_file(path, follow) if path else {}) | _from_overrides(overrides)
    retired = [f"{key} has no effect any more: {_RETIRED[key]}; leave it out" for key in given if key in _RETIRED]
    given = {key: value for key, value in given.items() if key not in _RETIRED}
    for key, value in given.items():
        _check_known(key, value.origin)
    filled = {key: value for key, value in given.items() if value.text}
    settings = _validated(filled, str(path or OVERRIDE))
    return settings, retired + ineffective(settings, frozenset(filled))


def dump_config(settings: Settings) -> str:
    """The fully resolved ``.ini`` text, which reads back to equal settings.

    A key without effect that stands at its default is written as a comment, so that reading it warns of nothing.
    """
    unmet = unmet_needs(settings)
    lines = ["# Every key is explained in docs/configuration.md, or by: primia-ray config reference"]
    for name in SECTIONS:
        lines += ["", f"[{name}]"]
        for key in keys_of(name):
            value = value_of(settings, key)
            line = f"{key.split('.')[1]} = {render(value)}".rstrip()
            idle = key in unmet and value == value_of(_DEFAULTS, key)
            lines.append(f"# {line}   (no effect: needs {unmet[key]})" if idle else line)
        if name == "search":
            lines += [f"{key} = {render(text)}" for key, text in settings.search.space.items()]
    return "\n".join(lines) + "\n"


def differences(a: Settings, b: Settings) -> list[str]:
    """One line ``section.key: old -> new`` for each setting in which ``a`` and ``b`` differ; empty is shown as ``(empty)``.

    Of a searched setting ``search.section.key`` is the text that says where its values come from.
    """
    olds, news = _flat(a), _flat(b)
    pairs = ((key, olds.get(key), news.get(key)) for key in olds | news)
    return [f"{key}: {render(old) or '(empty)'} -> {render(new) or '(empty)'}" for key, old, new in pairs if old != new]


def _flat(settings: Settings) -> dict[str, object]:
    return {key: value_of(settings, key) for key in keys()} | {_IN_SPACE + key: text for key, text in settings.search.space.items()}


def unknown(key: str) -> str | None:
    """What is wrong with a name that should be a ``section.key``, with the nearest known one; None where it is one."""
    section, _, name = key.partition(".")
    if key in NEW_NAMES:
        new_section, new_name = NEW_NAMES[key].split(".")
        return f"{key} is PriMIA's name; it is {new_name} in section [{new_section}] now ({NEW_NAMES[key]})"
    if section in PRIMIA_SECTIONS:
        return f"{key} is a setting of PriMIA's that has no counterpart; leave it out"
    if section not in SECTIONS:
        return _unknown_section(section)
    return None if key in keys_of(section) else f"unknown key {key}; {_nearest(name, section)}"


def fault(error: ErrorDetails) -> str:
    """What is wrong with typed values: one is out of bounds, or (where the location is no key) settings contradict each other."""
    key = ".".join(map(str, error["loc"][:2]))
    return f"{key} = {render(error['input'])}: must be {form_of(key).allowed}" if key in keys() else str(error["ctx"]["error"])


def _from_file(path: Path, follow: bool) -> dict[str, _Given]:
    parser = _parsed(path, follow)
    given = {}
    for section in parser.sections():
        if section not in SECTIONS and not parser.options(section):
            raise ConfigError(f"{path}: {_unknown_section(section)}")
        for name, text in parser.items(section):
            if "\n" in text:
                raise ConfigError(f"{path}: [{section}] the line after {name} is indented; a key begins its line and a value ends with it")
            given[f"{section}.{name}"] = _Given(uncomment(text), str(path))
    return given


def _parsed(path: Path, follow: bool) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, default_section="", empty_lines_in_values=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        text = read_file(path, _LARGEST, follow=follow).decode("utf-8-sig")
        _check_names(path, text)
        parser.read_string(text, source=str(path))
    except OSError as error:
        raise ConfigError(f"cannot read settings file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a settings file: byte {error.start} is not UTF-8 text") from None
    except Unusable as error:
        raise ConfigError(f"{path}: not a settings file: {error}") from None
    except configparser.Error as error:
        raise ConfigError(f"{path}: {_syntax(error)}") from None
    return parser


def _check_names(path: Path, text: str) -> None:
    """Refuse a line that begins as no key does: the parser takes time that grows with the square of its blanks."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line.partition("=")[0].strip()) > _LONGEST_NAME and not line.lstrip().startswith(("#", ";")):
            raise ConfigError(f"{path}: line {number}: {printable(line, 60)} is neither a [section] nor key = value")


def _syntax(error: configparser.Error) -> str:
    match error:
        case configparser.DuplicateOptionError():
            return f"line {error.lineno}: {error.section}.{error.option} is given twice; keep one"
        case configparser.DuplicateSectionError():
            return f"line {error.lineno}: section [{error.section}] begins twice; put its keys together"
        case configparser.MissingSectionHeaderError():
            return f"line {error.lineno}: {error.line.strip()[:60]!r} stands before any [section]; the file must begin with one"
        case configparser.ParsingError():
            number, line = error.errors[0]
            return f"line {number}: {line.replace(chr(92) + 'n', '')} is neither a [section] nor key = value"
    return error.message.splitlines()[0]


def _from_overrides(overrides: Iterable[str]) -> dict[str, _Given]:
    given = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or (_searched(key) or key).count(".") != 1:
            raise ConfigError(f"{OVERRIDE} {override}: write it as section.key=value, for example {OVERRIDE} training.batch_size=16")
        given[key.strip()] = _Given(text.strip(), OVERRIDE)
    return given


def _check_known(key: str, origin: str) -> None:
    """The name of a setting, or of a searched one: ``search.section.key``."""
    searched = _searched(key)
    wrong = unknown(searched or key)
    if wrong:
        raise ConfigError(f"{origin}: {'[search] ' if searched else ''}{wrong}")


def _searched(key: str) -> str:
    """The ``section.key`` of ``search.section.key``; empty for a key of another shape."""
    name = key.removeprefix(_IN_SPACE)
    return name if key.startswith(_IN_SPACE) and "." in name else ""


def _unknown_section(section: str) -> str:
    near = difflib.get_close_matches(section.lower(), SECTIONS, n=1)
    hint = f"did you mean [{near[0]}]? " if near else ""
    return f"unknown section [{section}]; {hint}sections: {', '.join(SECTIONS)}"


def _nearest(name: str, section: str) -> str:
    """The nearest known key: called just so in another section, else alike in this one, else all of this one."""
    here = {key.removeprefix(f"{section}."): key for key in keys_of(section)}
    elsewhere = [key for key in keys() if key.endswith(f".{name.lower()}")]
    near = elsewhere or [here[key] for key in difflib.get_close_matches(name.lower(), here, n=1)]
    return f"did you mean {' or '.join(near)}?" if near else f"keys of [{section}]: {', '.join(here)}"


def _validated(given: Mapping[str, _Given], where: str) -> Settings:
    space = {searched: unquoted(value.text) for key, value in given.items() if (searched := _searched(key))}
    tree: dict[str, dict[str, object]] = {"search": {"space": space}}
    for key, value in given.items():
        if not _searched(key):
            section, name = key.split(".")
            tree.setdefault(section, {})[name] = parse(value.text, key)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(_fault(first, given, where) + more) from None


def _fault(error: ErrorDetails, given: Mapping[str, _Given], where: str) -> str:
    """A value out of bounds, or (where the location is no key) settings that contradict each other."""
    key = ".".join(map(str, error["loc"][:2]))
    if key not in given:
        return f"{where}: {error['ctx']['error']}"
    text, origin = given[key]
    said = f"{origin} {key}={text}" if origin == OVERRIDE else f"{origin}: {key} = {text}"
    return f"{said}: must be {form_of(key).allowed}"
