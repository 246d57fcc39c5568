"""Remote shard folders: files are copied when first needed, with retries, and checked before use."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.files import locked, sha256, user_cache
from avrt.remote.copies import ATTEMPTS, copy_file
from avrt.remote.stores import shown

LARGEST_MANIFEST = 256 << 20
"""In bytes. The entry of a shard takes about 150, so that the manifest of a million shards fits."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

log = logging.getLogger(__name__)


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

    A broken transfer resumes where it stopped. Processes share the copies, and each file is copied by one of them.

    Args:
        address: The folder's address, by http(s) or of a store that fsspec opens (`s3`, `gs`, `hf`, ...). The file's
            name replaces `{name}` in it, or is appended.
        cache: Folder for the copies of all addresses; by default in the user's cache folder.
        gigabytes: Most that is kept of this folder, the files used last; 0 for everything.
    """

    def __init__(self, address: str, cache: Path | None = None, gigabytes: float = 0.0) -> None:
        self.address = address.rstrip("/")
        self._limit = gigabytes * 1e9
        root = cache or user_cache("shards")
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
                log.warning("%s arrived damaged; it is copied again", shown(self._address_of(name)))
        raise AvrtError("is not the file that the manifest describes", where=shown(self._address_of(name)))

    def _copy(self, name: str, partial: Path, size: int | None = None, attempts: int = ATTEMPTS) -> None:
        """Copy a file, with retries; a partial copy is continued if the address allows it."""
        copy_file(self._address_of(name), partial, size, LARGEST_MANIFEST if size is None else size, attempts)

    def _address_of(self, name: str) -> str:
        return self.address.replace("{name}", name) if "{name}" in self.address else f"{self.address}/{name}"

    def _locked(self, path: Path, *, wait: bool = True) -> AbstractContextManager[None]:
        """Lock a file's copy; see `avrt.files.locked`."""
        self.local.mkdir(parents=True, exist_ok=True)
        return locked(path.with_suffix(".lock"), wait=wait)

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
