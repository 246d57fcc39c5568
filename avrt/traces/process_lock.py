"""Locks that show which processes still run: each holds the lock on a file of its own until it ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path


class ProcessLock:
    """The lock of this process; the kernel releases it however the process ends.

    Args:
        folder: Where the lock files of all processes are.

    Attributes:
        folder: The same.
        name: The name of this process's lock file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._file = (folder / self.name).open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        """Release the lock and delete its file."""
        self._file.close()
        (self.folder / self.name).unlink(missing_ok=True)

    def others(self) -> list[str]:
        """Names of the other lock files, whether or not somebody holds them."""
        return [path.name for path in self.folder.iterdir() if path.name != self.name]

    def is_held(self, name: str) -> bool:
        """Whether the process with the lock of that name still runs; a lock file that nobody holds is deleted."""
        path = self.folder / Path(name).name
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
