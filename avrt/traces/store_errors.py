"""What errors of a database mean: one record that it does not take, two writers in each other's way, or its end."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, ProgrammingError, SQLAlchemyError, StatementError

from avrt.errors import AvrtError
from avrt.traces.store_place import SQLITE_FILE, StorePlace, written

_TOO_LARGE = "54"  # class of SQLSTATE: a limit of the program, such as that of a row in an index
_AGAIN = ("40P01", "40001")  # a deadlock, or a change by another transaction


class UnstorableError(AvrtError):
    """The store does not take a value of one record; the other records are kept."""


def refuses_record(error: Exception) -> bool:
    """Whether an error is about the values of a record, not about the store."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, (StatementError, ValueError, OverflowError))
    if error.connection_invalidated:
        return False
    state = _state(error)
    of_values = isinstance(error, (DataError, InterfaceError)) or (isinstance(error, ProgrammingError) and not state)
    return of_values or state.startswith(_TOO_LARGE)


def worth_repeating(error: Exception) -> bool:
    """Whether the same transaction may succeed when it is repeated."""
    return isinstance(error, DBAPIError) and _state(error) in _AGAIN


def as_avrt_error(error: Exception, place: StorePlace) -> Exception:
    """The error in one line, if it comes from the database; any other error as it is."""
    if not isinstance(error, SQLAlchemyError):
        return error
    cause = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    if isinstance(place, Path):
        where, remedy = str(place / SQLITE_FILE), "free disk space or repair the file"
    else:
        where, remedy = written(place), "see that the server runs and lets this user in"
    remedy = f"{remedy}, then run the same command again; finished calls are kept"
    return AvrtError(f"the store cannot be used: {cause}", where=where, remedy=remedy)


def _state(error: DBAPIError) -> str:
    """PostgreSQL's code of an error; empty for SQLite's."""
    return getattr(error.orig, "sqlstate", None) or ""
