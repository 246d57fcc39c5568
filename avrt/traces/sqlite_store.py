"""A store as a file of SQLite in WAL mode, for processes of one machine; earlier versions are upgraded when opened."""

from __future__ import annotations

import fcntl
import functools
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from avrt.errors import AvrtError
from avrt.traces.process_lock import ProcessLock
from avrt.traces.schema import SCHEMA_VERSION, metadata, outcomes, verdicts
from avrt.traces.store_place import SQLITE_FILE

LOCK = "store.lock"
WRITES = "avrt_writes"
"""Option of a connection whose transactions exclude those of other writers from their beginning."""
# A store of version 1 has one trace folder.
_COLUMNS = {
    outcomes: "sample, run, position, status, reason, difficulty, clip, trace, merger_call",
    verdicts: "sample, run, teacher, letter, votes, answer, correct, call",
}


class FileOwner:
    """This process as the owner of claims, by a file lock that the kernel releases however the process ends.

    Args:
        folder: The store's folder.

    Attributes:
        name: Its name in the store.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = ProcessLock(folder / "owners")
        self._dead: set[str] = set()
        self.name = self._lock.name
        self._met = {name for name in self._lock.others() if self._lock.is_held(name)}

    def running(self, db: Connection, names: set[str]) -> set[str]:
        """Those of some owners that still run."""
        self._dead |= {name for name in names - self._dead if not self._lock.is_held(name)}
        self._met |= names - self._dead
        return names - self._dead

    def met(self, names: set[str]) -> set[str]:
        """Those of some owners that ran at the same time as this process, as far as it has seen."""
        return names & self._met

    def release(self) -> None:
        """Show that this process has ended."""
        self._lock.release()


def connect(folder: Path, *, create: bool) -> Connection:
    """Open the store of a folder; one of an earlier version is upgraded, with its calls and outcomes.

    Raises:
        AvrtError: If there is none, or it has another version.
        SQLAlchemyError: If it cannot be read.
    """
    path = folder / SQLITE_FILE
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise AvrtError("holds no traces", where=folder, remedy="run avrt traces run --out there first")
    db = _engine(path.absolute()).connect()
    try:
        if _version(db) < SCHEMA_VERSION:
            _create(db, folder)
        if (version := _version(db)) != SCHEMA_VERSION:
            what = f"is a store of version {version}, this avrt reads {SCHEMA_VERSION}"
            raise AvrtError(what, where=path, remedy="use the avrt that wrote it, or another folder")
        db.commit()
    except BaseException:
        db.close()
        raise
    return db


@functools.cache
def _engine(path: Path) -> Engine:
    settings = {"timeout": 60, "check_same_thread": False}  # one thread at a time uses a connection
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args=settings)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the module would begin transactions by itself, and not before a read
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(db: Connection) -> None:
        if db.get_execution_options().get(WRITES):
            db.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _version(db: Connection) -> int:
    return int(db.exec_driver_sql("PRAGMA user_version").scalar_one())


def _create(db: Connection, folder: Path) -> None:
    """Create the tables of a new store, or upgrade one of version 1, unless another process just did.

    A file lock makes processes wait for each other, as a change of the journal mode fails instead of waiting.
    """
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        version = _version(db)
        if version >= SCHEMA_VERSION:
            return
        if version == 0:
            db.exec_driver_sql("PRAGMA journal_mode = WAL")
        db.exec_driver_sql("BEGIN IMMEDIATE")
        if version == 1:
            for table in _COLUMNS:
                db.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO {table.name}_before")
        metadata.create_all(db)
        if version == 1:
            for table, columns in _COLUMNS.items():
                before = f"{table.name}_before"
                db.exec_driver_sql(f"INSERT INTO {table.name} (folder, {columns}) SELECT '', {columns} FROM {before}")
                db.exec_driver_sql(f"DROP TABLE {before}")
        db.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.exec_driver_sql("COMMIT")
