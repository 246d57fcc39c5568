"""Where a call store is: a folder of this machine, with SQLite, or a PostgreSQL database for many machines."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from avrt.errors import AvrtError
from avrt.messages import printable

StorePlace = Path | URL
SQLITE_FILE = "store.sqlite3"
"""The name of the file of SQLite in a store that is a folder."""
DRIVER = "postgresql+psycopg"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_NAMES = ("postgresql", "postgres", DRIVER)


def read_place(text: str) -> StorePlace:
    """The store that an option or a `run.json` names: a folder, or `postgresql://user@host/database`.

    Raises:
        AvrtError: If it is an address of anything else, or has a password in it.
    """
    if "://" not in text:
        return Path(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = URL.create("unreadable")
    if url.drivername not in _NAMES:
        remedy = "name a folder, or a database as in postgresql://user@host/database"
        raise AvrtError(f"is not the address of a store: {_without_secret(text)}", where="store", remedy=remedy)
    if url.password is not None or any("password" in name.lower() for name in url.query):
        what = "has a password in it, which ps shows and traces.yaml would keep"
        remedy = "leave it out, and put it into ~/.pgpass or the variable PGPASSWORD"
        raise AvrtError(what, where=f"store {_without_secret(text)}", remedy=remedy)
    return url.set(drivername=DRIVER)


def written(place: StorePlace) -> str:
    """The place as it is typed, and named in messages."""
    if isinstance(place, Path):
        return str(place)
    return place.set(drivername="postgresql").render_as_string().replace("%2F", "/")  # folders of sockets


def is_of_this_machine(place: URL) -> bool:
    """Whether the address of a database leads to nowhere but this machine."""
    told = [place.host, *(value for name in ("host", "hostaddr") for value in place.normalized_query.get(name, ()))]
    hosts = [host for text in told if text for host in text.split(",")]
    local = all(host in _LOCAL or host.startswith("/") for host in hosts)
    return local and place.query.keys() <= {"host", "hostaddr", "port"}


def _without_secret(text: str) -> str:
    """An address up to its scheme and after its user, so that no message shows a password."""
    scheme, _, rest = text.partition("://")
    return printable(f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}")
