"""The student in a folder from which the engines beside the trainer load it: one per machine, gone with the trainer."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import tempfile
from pathlib import Path

from avrt.distributed import gather_objects
from avrt.errors import AvrtError
from avrt.policy.policy import Policy
from avrt.policy.saving import export_policy

PREFIX = "avrt-vllm-"
LOCK = "lock"
"""A file that its trainer keeps locked; the system unlocks it, however that ends."""


class ExportedModel:
    """The first rank of each machine writes the student out, and its neighbours' engines read the same folder.

    All ranks make one together.

    Args:
        policy: The student, whose weights are whole.
        rank: Number of this process.
        wanted: Whether this rank's engine needs it.

    Attributes:
        path: The model's folder; empty where it is not needed.

    Raises:
        AvrtError: If it cannot be written.
    """

    def __init__(self, policy: Policy, rank: int, *, wanted: bool) -> None:
        self._folder: Path | None = None
        self._lock = -1
        self.path = ""
        machine = platform.node() if wanted else ""
        machines = gather_objects(machine)
        first = machines.index(machine)
        failure = ""
        if wanted and (len(machines) == 1 or first == rank):
            try:
                self._write(policy)
            except (AvrtError, OSError) as error:
                self.close()
                failure = str(error)
        written = gather_objects((self.path, failure))
        if failures := [failure for _, failure in written if failure]:  # of any: none may wait for another later on
            raise AvrtError(
                f"the student cannot be written for vLLM: {failures[0]}",
                where=tempfile.gettempdir(),
                remedy="make room there, set TMPDIR, or set model.vllm.model",
            )
        self.path = written[first][0]
        if wanted and not Path(self.path).is_dir():  # machines of one name, or temporary folders of each rank's own
            self._write(policy)

    def close(self) -> None:
        """Delete it, if it was written here."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write(self, policy: Policy) -> None:
        remove_left_over()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self._folder / f"{LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self._folder / f"{LOCK}.new").rename(self._folder / LOCK)  # only now may others look whether it is locked
        self.path = str(self._folder / "model")
        export_policy(policy, Path(self.path), full_layout=True)


def remove_left_over() -> None:
    """Delete the folders of trainers that were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            file = os.open(lock, os.O_RDWR)
        except OSError:  # another user's, or gone
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # its trainer lives
            pass
        finally:
            os.close(file)
