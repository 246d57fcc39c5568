"""Remote shard folders: files are copied when first needed, with retries, and checked before use."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from avrt.errors import AvrtError
from avrt.files import sha256

ATTEMPTS = 8
"""Failures in a row, without a new byte, after which copying a file fails."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 20.0
_TIMEOUT = 60.0
_CHUNK = 1 << 20
LARGEST_MANIFEST = 256 << 20
"""In bytes. The entry of a shard takes about 150, so that the manifest of a million shards fits."""
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

log = logging.getLogger(__name__)


def is_remote(folder: Path | str) -> bool:
    """Whether a shard folder is an address rather than a path."""
    return isinstance(folder, str) and _ADDRESS.match(folder) is not None


def safe_name(name: Any, where: object) -> str:
    """A file name from a manifest, checked so that it is neither a path nor part of a command.

    Raises:
        AvrtError: If it is not a plain name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AvrtError(f"names a file {name!r}, which is not a plain name", where=where)
    return name


class RemoteFolder:
    """A folder of files at an address, with local copies of the files that were needed.

    From `http` and `https` addresses a broken transfer resumes where it stopped. From all other addresses that
    `webdataset` opens (`s3`, `gs`, `pipe`, ...) it begins again. Processes share the copies, and each file is copied by
    one of them.

    Args:
        address: The folder's address. The file's name replaces `{name}` in it, or is appended.
        cache: Folder for the copies of all addresses; by default in the user's cache folder.
        gigabytes: Most that is kept of this folder, the files used last; 0 for everything.
    """

    def __init__(self, address: str, cache: Path | None = None, gigabytes: float = 0.0) -> None:
        self.address = address.rstrip("/")
        self._limit = gigabytes * 1e9
        root = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avrt" / "shards"
        self._pid = 0
        self._coming: set[Path] = set()
        self._ahead: queue.SimpleQueue[tuple[str, int, str]] | None = None
        self.local = root / hashlib.sha256(self.address.encode()).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        """A manifest's bytes, read from the address each time.

        Raises:
            AvrtError: If it cannot be fetched, or is larger than any manifest.
        """
        self.local.mkdir(parents=True, exist_ok=True)
        partial = self.local / f"{name}.{os.getpid()}.partial"
        try:
            self._copy(name, partial)
            return partial.read_bytes()
        finally:
            partial.unlink(missing_ok=True)

    def fetch(self, name: str, size: int, checksum: str) -> Path:
        """The local copy of a file, made if there is none.

        Args:
            name: The file.
            size: Its size in bytes.
            checksum: Its sha256, which is part of the copy's name.

        Raises:
            AvrtError: If it cannot be fetched, or has another checksum.
        """
        path = self._place(name, checksum)
        while True:
            if not path.is_file():
                with self._locked(path):
                    if not path.is_file():
                        self._fetch(name, size, checksum, path)
            with suppress(FileNotFoundError):  # another process may have just deleted it to make room
                os.utime(path)
                return path

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the background copies, since each process has its own thread for them."""
        return {**self.__dict__, "_pid": 0, "_coming": set(), "_ahead": None}

    def prefetch(self, name: str, size: int, checksum: str) -> None:
        """Copy a file in the background before `fetch` needs it; `fetch` reports errors."""
        pid = os.getpid()
        if self._ahead is None or pid != self._pid:  # a forked worker has the queue, but not the thread
            self._pid, self._coming, self._ahead = pid, set(), queue.SimpleQueue()
            threading.Thread(target=self._copy_ahead, args=(self._ahead,), daemon=True).start()
        path = self._place(name, checksum)
        if path not in self._coming and not path.is_file():
            self._coming.add(path)
            self._ahead.put((name, size, checksum))

    def _copy_ahead(self, files: queue.SimpleQueue[tuple[str, int, str]]) -> None:
        """Run in a thread: copy files of a queue that no process has copied or copies now."""
        while True:
            name, size, checksum = files.get()
            path = self._place(name, checksum)
            with suppress(AvrtError, OSError), self._locked(path, wait=False):
                if not path.is_file():
                    self._fetch(name, size, checksum, path, attempts=2)
            self._coming.discard(path)

    def _place(self, name: str, checksum: str) -> Path:
        """The path of a file's copy."""
        return self.local / f"{checksum[:12]}-{name}"

    def _fetch(self, name: str, size: int, checksum: str, path: Path, attempts: int = ATTEMPTS) -> None:
        """Copy a file to its path; a copy with a wrong checksum is made once more."""
        partial = path.with_suffix(".partial")
        for last in (False, True):
            self._copy(name, partial, size, attempts)
            if sha256(partial) == checksum:
                partial.replace(path)
                self._evict(path)
                return
            partial.unlink()
            if not last:
                log.warning("%s/%s arrived damaged; it is copied again", self.address, name)
        raise AvrtError("is not the file that the manifest describes", where=f"{self.address}/{name}")

    def _copy(self, name: str, partial: Path, size: int | None = None, attempts: int = ATTEMPTS) -> None:
        """Copy a file, with retries; a partial copy is continued if the address allows it."""
        failures = 0
        while True:
            before = partial.stat().st_size if partial.exists() else 0
            try:
                self._transfer(name, partial, size)
                have = partial.stat().st_size
                if size is None or have == size:
                    return
                reason = f"{have:,} of {size:,} bytes arrived"
            except AvrtError:
                raise
            except urllib.error.HTTPError as error:
                if error.code in (400, 401, 403, 404, 405, 410, 414):
                    raise AvrtError(f"cannot be fetched: {error}", where=f"{self.address}/{name}") from None
                if error.code == 416:
                    partial.unlink(missing_ok=True)
                reason = str(error)
            except Exception as error:  # each kind of address raises its own errors, and a retry may help
                reason = f"{type(error).__name__}: {error}"
            gained = partial.exists() and partial.stat().st_size > before
            failures = 1 if gained else failures + 1
            if failures >= attempts:
                raise AvrtError(
                    f"cannot be fetched after {failures} attempts: {reason}",
                    where=f"{self.address}/{name}",
                    remedy="check the address, then resume with --ckpt_path last",
                )
            log.info("%s/%s: %s; retrying", self.address, name, reason)
            time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (failures - 1)))

    def _transfer(self, name: str, partial: Path, size: int | None) -> None:
        """Make one attempt; it stops at the first excess byte, so that no server can fill the disk."""
        address, most = self._address_of(name), LARGEST_MANIFEST if size is None else size
        if not address.startswith(("http://", "https://")):
            import webdataset

            with webdataset.gopen(address) as stream, partial.open("wb") as file:
                _pour(stream, file, most, address)
            return
        have = partial.stat().st_size if partial.exists() else 0
        if size is not None and have == size:
            return
        if have > most:  # from when the address held another file
            partial.unlink()
            have = 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as answer:
            goes_on = answer.status == 206 and have > 0
            expected = answer.length
            with partial.open("ab" if goes_on else "wb") as file:
                _pour(answer, file, most - (have if goes_on else 0), address)
        arrived = partial.stat().st_size - (have if goes_on else 0)
        if expected is not None and arrived < expected:
            raise ConnectionError(f"broken off after {arrived:,} of {expected:,} bytes")

    def _address_of(self, name: str) -> str:
        return self.address.replace("{name}", name) if "{name}" in self.address else f"{self.address}/{name}"

    @contextmanager
    def _locked(self, path: Path, wait: bool = True) -> Iterator[None]:
        """Lock a file against other processes; without `wait`, raises `BlockingIOError` if another process has it."""
        self.local.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing does not unlock if a process was forked meanwhile

    def _evict(self, newest: Path) -> None:
        """Delete the copies used longest ago; processes that have one open can still read it."""
        if not self._limit:
            return
        copies = sorted(
            ((f.stat().st_mtime, f.stat().st_size, f) for f in self.local.glob("*.tar") if f != newest), reverse=True
        )
        kept = newest.stat().st_size
        for _, size, file in copies:
            kept += size
            if kept > self._limit:
                file.unlink(missing_ok=True)


def _pour(source: Any, file: BinaryIO, most: int, address: str) -> None:
    """Copy a stream of at most `most` bytes."""
    while chunk := source.read(_CHUNK):
        most -= len(chunk)
        if most < 0:
            raise AvrtError("holds more bytes than expected", where=address, remedy="make or copy the shards again")
        file.write(chunk)
