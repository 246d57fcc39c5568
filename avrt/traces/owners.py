"""Whether the process that claimed a call still lives: each holds a lock on a file of its own until it ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path


class Owner:
    """This process as an owner of claims; the kernel drops its lock however the process ends.

    Args:
        folder: Where the lock files of all owners lie.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._file = (folder / self.name).open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        """Give up what is claimed."""
        self._file.close()
        (self.folder / self.name).unlink(missing_ok=True)


def is_alive(folder: Path, name: str) -> bool:
    """Whether the process of that name still runs; forgets it if not."""
    path = folder / Path(name).name
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
