"""Keys made ahead of time: one file a batch and party, and a ledger that lets each be taken once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from primia.data.closed import refuse_box
from primia.errors import KeyReuseError, ProtocolError
from primia.files import atomic_path, atomic_text, new_file, own_folder
from primia.mpc.codec import read_messages, write_message
from primia.mpc.keys import BatchKeys, Keep
from primia.mpc.messages import Message
from primia.mpc.program import Program
from primia.untrusted.documents import read_object

_SETUP = "setup.json"
_LEDGER = "ledger.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, images INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0)"


class ReadyBatch(NamedTuple):
    """Keys that wait to be used."""

    batch: int
    images: int


class KeyStore:
    """One party's keys for one model, in a folder of its own with mode 0700.

    A batch is marked used, on disk, before its first key is read, and its file is deleted after; a mark outlives the file, so keys
    from a copied or restored folder are refused as long as the ledger is not restored with them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, program: Program, fingerprint: str) -> KeyStore:
        """Make the folder, or open it where it is of the same model.

        ``fingerprint``: of program and weights at the model owner, of the program at the data owner.

        Raises:
            ProtocolError: the folder holds keys for another model.
            ConsentError: it would lie in a site box.
        """
        refuse_box(folder)
        store = cls(folder)
        setup = {"fingerprint": fingerprint, "program": program.to_json()}
        if (folder / _SETUP).exists():
            if store._setup() != setup:
                raise ProtocolError(f"{folder} holds keys for another model or calibration; give another folder with --keys, or remove it")
            return store
        try:
            own_folder(folder)
            with suppress(FileExistsError):
                new_file(folder / _LEDGER).close()  # SQLite would make it with the process's umask
        except OSError as error:
            raise ProtocolError(f"cannot make {folder}: {error.strerror}; give another folder with --keys") from None
        with store._ledger() as ledger:
            ledger.execute(_TABLE)
        atomic_text(folder / _SETUP, json.dumps(setup))
        return store

    @classmethod
    def open(cls, folder: Path) -> KeyStore:
        """An existing store.

        Raises:
            ProtocolError: there is none, or it cannot be read.
            ConsentError: it lies in a site box.
        """
        refuse_box(folder)
        store = cls(folder)
        if not (folder / _SETUP).exists():
            raise ProtocolError(f"{folder} holds no keys; make some first: primia-ray infer RUN --encrypted --preprocess N --keys DIR")
        store._setup()
        store._clear()
        return store

    @property
    def program(self) -> Program:
        """What the keys were made for."""
        return Program.from_json(self._setup()["program"])

    @property
    def fingerprint(self) -> str:
        """See :meth:`create`."""
        return self._setup()["fingerprint"]

    @contextmanager
    def writing(self, batch: int, images: int) -> Iterator[Keep]:
        """Give what takes the records of a batch; on success its keys are ready."""
        with atomic_path(self._file(batch)) as path, path.open("wb") as file:

            def keep(message: Message) -> None:
                write_message(file, message)

            yield keep
        with self._ledger() as ledger:
            ledger.execute("INSERT INTO batches (id, images) VALUES (?, ?)", (f"{batch:016x}", images))

    def ready(self) -> list[ReadyBatch]:
        """Batches whose keys were not used, the oldest first."""
        with self._ledger() as ledger:
            rows = ledger.execute("SELECT id, images FROM batches WHERE used = 0 ORDER BY rowid").fetchall()
        return [ReadyBatch(int(name, 16), images) for name, images in rows if self._file(int(name, 16)).exists()]

    @contextmanager
    def taking(self, batch: int) -> Iterator[BatchKeys]:
        """Mark a batch used, then give its keys; its file is deleted at the end, whatever happened.

        Raises:
            KeyReuseError: the batch is not ready: used before, or never made.
        """
        with self._ledger() as ledger:
            marked = ledger.execute("UPDATE batches SET used = 1 WHERE id = ? AND used = 0", (f"{batch:016x}",)).rowcount
        if not marked:
            raise KeyReuseError(f"{self.folder}: the keys of batch {batch:016x} were used before or never made; keys serve once")
        try:
            records = read_messages(self._file(batch))
            # The file is mapped from its first record on, and may then vanish from the folder.
            yield BatchKeys(batch, chain([next(records)], records))
        finally:
            self._file(batch).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete what a process that was killed has left of keys that are marked used."""
        with self._ledger() as ledger:
            rows = ledger.execute("SELECT id FROM batches WHERE used = 1").fetchall()
        for (name,) in rows:
            self._file(int(name, 16)).unlink(missing_ok=True)

    def _file(self, batch: int) -> Path:
        return self.folder / f"{batch:016x}.keys"

    @contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it ends."""
        path = self.folder / _LEDGER
        try:
            with closing(sqlite3.connect(path, timeout=30.0)) as ledger, ledger:
                # EXTRA also syncs the folder: a journal that comes back after a power cut would undo the mark.
                ledger.execute("PRAGMA synchronous = EXTRA")
                yield ledger
        except sqlite3.Error as error:
            raise ProtocolError(f"{path} cannot be used ({error}); without it no key may be: make fresh ones in another folder") from None

    def _setup(self) -> dict[str, str]:
        try:
            setup = read_object(self.folder / _SETUP)
            return {"fingerprint": str(setup["fingerprint"]), "program": str(setup["program"])}
        except (OSError, ValueError, KeyError) as error:
            raise ProtocolError(f"{self.folder / _SETUP} cannot be read ({error}); make fresh keys in another folder") from None
