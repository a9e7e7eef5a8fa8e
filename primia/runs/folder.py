"""The run folder: one ``.ini`` in, one folder out."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from primia.config.reader import dump_config, load_config
from primia.config.settings import Settings
from primia.data.closed import refuse_box
from primia.errors import RunError
from primia.files import atomic_text, open_to_append, own_folder, private_folder
from primia.untrusted.documents import read_object
from primia.untrusted.files import Unusable, check_folder, printable

_TOLD = re.compile(r"[\w-]{0,255}")
"""What data.json holds: hexadecimal digits, and words in tests."""

_STATUS = re.compile(r"[a-z_-]{1,40}")


@dataclass(frozen=True)
class ResultFolder:
    """What the folders of a run and of a sweep have in common."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.ini"

    @property
    def data(self) -> Path:
        """What it was trained on: the fingerprint that a resume compares; a run also keeps what makes its name unique."""
        return self.path / "data.json"

    @property
    def summary(self) -> Path:
        """The results."""
        return self.path / "summary.json"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """The settings that it was started with, and ``overrides``; it lies where the folder is now, wherever that was made."""
        stored = load_config(self.config, overrides, follow=False)
        return stored.model_copy(update={"run": stored.run.model_copy(update={"output": self.path.resolve().parent})})

    def fingerprint(self) -> str:
        """Fingerprint of the images that it was started with.

        Raises:
            RunError: it is missing, or cannot be read.
        """
        return self._from_data("fingerprint")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write :attr:`summary`; every number in it is finite or null."""
        atomic_text(self.summary, json.dumps(summary, indent=1, allow_nan=False) + "\n")

    def check(self) -> None:
        """Raise :class:`RunError` where the folder holds links or devices: what is written or removed by them would lie elsewhere."""
        try:
            check_folder(self.path)
        except (OSError, Unusable) as error:
            raise RunError(f"{self.path} cannot be used ({error}); was it made by somebody else? Run folders hold files alone") from None

    def remove(self) -> None:
        """Remove the folder: for what failed before anything came of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _from_data(self, key: str) -> str:
        """What :attr:`data` says."""
        try:
            value = read_json(self.data)[key]
        except (FileNotFoundError, KeyError):
            raise RunError(f"{self.path} has no {self.data.name} that tells its {key}; was the folder copied whole?") from None
        if not isinstance(value, str) or not _TOLD.fullmatch(value):
            raise unreadable(self.data, f"{key} is {printable(value, 60)!r}")
        return value


@dataclass(frozen=True)
class RunFolder(ResultFolder):
    """Paths of a run, and the few files that are written whole."""

    @property
    def facts(self) -> Path:
        """What the sites told before the first round."""
        return self.path / "facts.json"

    @property
    def history(self) -> Path:
        """A row per round and site."""
        return self.path / "rounds.parquet"

    @property
    def checkpoints(self) -> Path:
        """One checkpoint a round."""
        return self.path / "checkpoints"

    @property
    def sites(self) -> Path:
        """What sites keep for themselves (FedBN, optimiser state), one folder a site."""
        return self.path / "sites"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def log(self) -> Path:
        """Everything that happened, with tracebacks."""
        return self.path / "run.log"

    @classmethod
    def create(cls, path: Path, settings: Settings, fingerprint: str) -> RunFolder:
        """Make a new run folder.

        Raises:
            RunError: it exists already, or cannot be written.
            ConsentError: it would lie in a site box.
        """
        refuse_box(path)
        if path.exists():
            raise RunError(f"run folder {path} exists already; give another --name, or go on with it: primia-ray train --resume {path}")
        folder = cls(path)
        try:
            private_folder(path.parent)
            path.mkdir(0o700)
            own_folder(path)
        except OSError as error:
            raise RunError(f"cannot make run folder {path}: {error.strerror}; give another --output") from None
        try:
            atomic_text(folder.config, dump_config(settings))
            atomic_text(folder.data, json.dumps({"fingerprint": fingerprint, "id": secrets.token_hex(4)}))
        except BaseException:
            folder.remove()
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, which a stranger may have made: it is looked through for links before anything is written.

        Raises:
            RunError: it is missing, is not one, or holds links or devices.
            ConsentError: it lies in a site box.
        """
        refuse_box(path)
        folder = cls(path)
        if not folder.config.is_file():
            raise RunError(f"{path} is not a run folder: it has no config.ini")
        folder.check()
        return folder

    def reopen(self) -> None:
        """Drop the results of a run that was ended early and goes on: what they say of it, and of privacy, is no longer all."""
        for path in (self.summary, self.path / "report.html"):
            path.unlink(missing_ok=True)

    def identity(self) -> str:
        """The run's name, made unique: what sites write into their books; errors as :meth:`fingerprint`."""
        return f"{self.path.name}#{self.token()}"

    def token(self) -> str:
        """The random part of :meth:`identity`; errors as :meth:`fingerprint`."""
        return self._from_data("id")

    def read_summary(self) -> dict[str, object]:
        """Read ``summary.json``.

        Raises:
            RunError: the run is not finished, or the file cannot be read.
        """
        try:
            return read_json(self.summary)
        except FileNotFoundError:
            raise RunError(f"{self.path} has no summary.json: the run is not finished; primia-ray train --resume {self.path}") from None

    def status(self) -> str:
        """How the run ended, by ``summary.json``; errors as :meth:`read_summary`, and where it does not say."""
        status = self.read_summary().get("status")
        if not isinstance(status, str) or not _STATUS.fullmatch(status):
            raise unreadable(self.summary, f"status is {printable(status, 60)!r}")
        return status

    def logging(self) -> AbstractContextManager[logging.Logger]:
        """A logger that appends to ``run.log``."""
        return file_logger(self.log)


def read_json(path: Path) -> dict[str, object]:
    """The object in a ``.json`` file of a run or a sweep.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, printable(error)) from None


def unreadable(path: Path, reason: str) -> RunError:
    """What is said of a file that is not as it was written."""
    return RunError(f"{path} cannot be read ({reason}); was it changed by hand? Put it back as it was")


@contextmanager
def file_logger(path: Path) -> Iterator[logging.Logger]:
    """A logger that appends to a file."""
    logger = logging.Logger(f"primia.{path}", logging.INFO)
    try:
        stream = open_to_append(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; remove it") from None
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()
        stream.close()
