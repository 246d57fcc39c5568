"""Opening and reading a store, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Executable, RowMapping, text
from sqlalchemy.exc import SQLAlchemyError

from avrt.traces import postgres_store, sqlite_store
from avrt.traces.store_errors import as_avrt_error
from avrt.traces.store_place import StorePlace


class Owner(Protocol):
    """A process as the owner of claims.

    Attributes:
        name: Its name in the store.
    """

    name: str

    def running(self, db: Connection, names: set[str]) -> set[str]:
        """Those of some owners whose processes still run, now."""
        ...

    def met(self, names: set[str]) -> set[str]:
        """Those of some owners that ran at the same time as this process, as far as it has seen."""
        ...

    def release(self) -> None:
        """Show that this process has ended."""
        ...


def connect(place: StorePlace, *, create: bool = False) -> Connection:
    """Open a store; a transaction on the connection excludes other writers where the database has one writer only.

    Raises:
        AvrtError: If there is none, or it cannot be read.
    """
    try:
        if isinstance(place, Path):
            return sqlite_store.connect(place, create=create)
        return postgres_store.connect(place, create=create)
    except SQLAlchemyError as error:
        raise as_avrt_error(error, place) from None


def connect_to_write(place: StorePlace, *, create: bool = False) -> Connection:
    """The same for a connection that writes: where only one can write at a time, transactions wait for their turn.

    Raises:
        AvrtError: If there is none, or it cannot be read.
    """
    return connect(place, create=create).execution_options(**{sqlite_store.WRITES: True})


def owner_of(place: StorePlace, db: Connection) -> Owner:
    """This process as an owner of claims, as the connection that it writes with."""
    return sqlite_store.FileOwner(place) if isinstance(place, Path) else postgres_store.SessionOwner(db)


@contextmanager
def writing(place: StorePlace) -> Iterator[Connection]:
    """One transaction on a store, committed at the end of the block.

    Raises:
        AvrtError: If there is no store, or it cannot be written.
    """
    try:
        with connect_to_write(place) as db, db.begin():
            yield db
    except SQLAlchemyError as error:
        raise as_avrt_error(error, place) from None


def rows(place: StorePlace, query: Executable | str) -> Iterator[RowMapping]:
    """Run a query on a store.

    Raises:
        AvrtError: If there is none, or it cannot be read.
    """
    try:
        with connect(place) as db:
            yield from db.execute(text(query) if isinstance(query, str) else query).mappings()
    except SQLAlchemyError as error:
        raise as_avrt_error(error, place) from None


def require_store(place: StorePlace) -> None:
    """See that there is a store that can be read.

    Raises:
        AvrtError: If not.
    """
    connect(place).close()
