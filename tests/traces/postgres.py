"""A PostgreSQL server of the tests' own, in a temporary folder and on loopback; Debian's package `postgresql`."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avrt.traces.store_place import StorePlace, read_place
from tests.traces.servers import free_port


def program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; Debian keeps those of the server off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return shutil.which(name) or (str(found[-1]) if found else None)


@dataclass
class Cluster:
    """A running server.

    Attributes:
        folder: Its data, its socket and its log.
        port: Its port on loopback.
    """

    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def address(self, database: str) -> str:
        """What a user types for a database of it."""
        return f"postgresql://avrt@127.0.0.1:{self.port}/{database}"

    def new(self, *options: str) -> str:
        """The address of a new, empty database; options are those of `createdb`."""
        name = f"store{next(self._numbers)}"
        done = [program("createdb"), "-h", str(self.folder), "-p", str(self.port), "-U", "avrt", *options, name]
        subprocess.run([str(word) for word in done], check=True, capture_output=True, text=True)
        return self.address(name)

    def run(self, address: str, statement: str) -> None:
        """Do something to a database that avrt does not do."""
        command = [program("psql"), address, "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]
        subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)

    def new_place(self) -> StorePlace:
        return read_place(self.new())


@contextlib.contextmanager
def running_cluster(*settings: str) -> Iterator[Cluster]:
    """Make a cluster and run its server until the block ends; the test is skipped where it is not installed.

    Args:
        *settings: Further settings of the server, such as `fsync=off`.
    """
    pytest.importorskip("psycopg")
    if program("initdb") is None or program("createdb") is None:
        pytest.skip("PostgreSQL is not installed")
    # not below pytest's folder, which is closed to others, and whose name is too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="avrt-pg-"))
    as_user: dict = {"cwd": folder}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = next(name for name in ("postgres", "nobody") if _exists(name))
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        as_user |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    made = [program("initdb"), "-D", "data", "-U", "avrt", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale", "C"]
    try:
        subprocess.run([str(word) for word in made], check=True, capture_output=True, text=True, **as_user)
        port = free_port()
        options = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-c", f"unix_socket_directories={folder}"]
        options += [word for setting in settings for word in ("-c", setting)]
        control = [str(program("pg_ctl")), "-D", "data", "-w", "-s"]
        start = [*control, "-l", "log", "-o", " ".join(options), "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, **as_user)
        try:
            yield Cluster(folder, port)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **as_user)
    finally:
        shutil.rmtree(folder)


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False
