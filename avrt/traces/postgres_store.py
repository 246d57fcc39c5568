"""A store as a database of PostgreSQL, for processes of many machines.

Which workers still run is shown by advisory locks, not by leases that have to be renewed. A worker's session holds the
lock of its name, and the server takes it back when that session ends: at once when the process is killed, within a
minute and a half when its machine or network goes away. A worker that is only slow, stopped or swapped out keeps its
claims, where a lease would run out and its call would be made twice. And since the same session writes the replies, a
worker that has lost its lock can no longer write: there is no time in which two workers both own a call.

A pooler between worker and server must give each worker a session of its own (PgBouncer: `pool_mode = session`).
"""

from __future__ import annotations

import functools
import os
import secrets
import socket
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, text

from avrt.errors import AvrtError
from avrt.text import clean
from avrt.traces.schema import SCHEMA_VERSION, metadata
from avrt.traces.store_place import written

LONGEST_ID = 2000
"""Bytes of a sample's id: an index takes rows of 2,704 bytes, and there are a folder's and a teacher's name in them."""
_CREATING = 0x6176_7274_7374_6F72  # key of the lock under which tables are created
_SETTINGS = {
    # an end of the connection that nobody tells of is noticed after 60 + 3 * 10 seconds, on both sides
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "90000",
    "idle_session_timeout": "0",  # a worker whose teacher takes long is idle
}
_CLIENT = {
    "connect_timeout": 30, "keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 90_000, "application_name": "avrt traces",
}  # fmt: skip
# Both halves of a session's 64-bit advisory locks in this database, as the view shows them.
_HELD = text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
    "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class SessionOwner:
    """This process as the owner of claims, by an advisory lock that its session holds.

    Args:
        db: The connection that the process writes with.

    Attributes:
        name: Its name in the store: machine, process and the key of its lock.
    """

    def __init__(self, db: Connection) -> None:
        key = secrets.token_hex(8)
        self.name = clean(f"{socket.gethostname()}:{os.getpid()}:{key}")
        db.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _lock_key(self.name)})
        self._met: set[int | None] = set(db.scalars(_HELD))
        db.commit()

    def running(self, db: Connection, names: set[str]) -> set[str]:
        """Those of some owners that still run."""
        held = set(db.scalars(_HELD)) if names else set()
        self._met |= held
        return {name for name in names if _lock_key(name) in held}

    def met(self, names: set[str]) -> set[str]:
        """Those of some owners that ran at the same time as this process, as far as it has seen."""
        return {name for name in names if _lock_key(name) in self._met}

    def release(self) -> None:
        """Nothing: the lock ends with the connection."""


def _lock_key(name: str) -> int | None:
    """The key of an owner's lock as a signed number of 64 bits; None for a name that is not of this form."""
    try:
        number = int(name.rpartition(":")[2], 16)
    except ValueError:
        return None
    return number - (1 << 64 if number >> 63 else 0)


def connect(url: URL, *, create: bool) -> Connection:
    """Open the store of a database.

    Raises:
        AvrtError: If psycopg is not installed, or the database has no store, one of another version, or texts that are
            not UTF-8.
        SQLAlchemyError: If it cannot be reached.
    """
    try:
        engine = _engine(url)
    except ImportError:
        remedy = "pip install 'avrt[postgres]'"
        raise AvrtError("needs the package psycopg", where=f"store {written(url)}", remedy=remedy) from None
    db = engine.connect()
    try:
        if (encoding := db.exec_driver_sql("SHOW server_encoding").scalar_one()) != "UTF8":
            remedy = "make one with: createdb --encoding UTF8 --template template0 NAME"
            raise AvrtError(f"its texts are {encoding}, not UTF8", where=written(url), remedy=remedy)
        exists = inspect(db).has_table("store_version")
        if not exists and not create:
            raise AvrtError("holds no traces", where=written(url), remedy="run avrt traces run --store with it first")
        if not exists:
            _create(db)
        version = db.exec_driver_sql("SELECT version FROM store_version").scalar_one()
        if version != SCHEMA_VERSION:
            what = f"is a store of version {version}, this avrt reads {SCHEMA_VERSION}"
            raise AvrtError(what, where=written(url), remedy="use the avrt that wrote it, or another database")
        db.commit()
    except BaseException:
        db.close()
        raise
    return db


@functools.cache
def _engine(url: URL) -> Engine:
    engine = create_engine(url, poolclass=NullPool, connect_args=_CLIENT)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        for name, value in _SETTINGS.items():
            if name == "idle_session_timeout" and connection.info.server_version < 140_000:
                continue  # has no such limit
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()

    return engine


def _create(db: Connection) -> None:
    """Create the tables, unless another process just did; processes wait for each other."""
    db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATING})
    metadata.create_all(db)
    db.exec_driver_sql("CREATE TABLE IF NOT EXISTS store_version (version integer NOT NULL)")
    if not db.exec_driver_sql("SELECT count(*) FROM store_version").scalar_one():
        db.exec_driver_sql(f"INSERT INTO store_version VALUES ({SCHEMA_VERSION})")
    db.commit()
