"""Files written whole or not at all, their checksums, locks on them, and where the user's cache is."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blake2b(paths: Iterable[Path], digest_size: int) -> str:
    """One checksum of the bytes of several files, in the order in which they are given."""
    whole = hashlib.blake2b(digest_size=digest_size)
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: whole)  # goes on with the same hash
    return whole.hexdigest()


def user_cache(kind: str) -> Path:
    """The folder for copies and work in progress of one kind, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avrt" / kind


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a file, made if missing, against other processes.

    Raises:
        BlockingIOError: Without `wait`, if another process has it.
    """
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing does not unlock if a process was forked meanwhile


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream to write a file with, which appears under its name only when the block ends without an error."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears under its name only when complete."""
    with open_whole(path) as stream:
        stream.write(data)
