"""Two nodes on one machine: their commands have folders, a home and a loopback address of their own.

Each node's command is a process group of its own, as on two machines. They are started by hand, or with the variables
that `srun` sets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils import cpp_extension

from tests.conftest import WARM
from tests.warm import WarmCommands

SECOND = WarmCommands()
HANDS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass
class Ended:
    """How one node's command ended.

    Attributes:
        status: Its status.
        out: What it printed.
        err: Its messages.
        at: When, in seconds of the monotonic clock.
    """

    status: int
    out: str
    err: str
    at: float


@dataclass
class TwoNodes:
    """Two nodes.

    Args:
        root: A folder with one of each node's below it.
        slurm: Start them as `srun` does, rather than by hand.
    """

    root: Path
    slurm: bool = False
    changed: dict[str, str] = field(default_factory=dict)

    def folder(self, node: int) -> Path:
        """Where a node keeps everything."""
        return self.root / f"machine{node}"

    def run(self, *arguments: object) -> list[Ended]:
        """Run the same command on both; `{node}` in it is a node's own folder."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            port = probe.getsockname()[1]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda node: self._run(node, port, arguments), (0, 1)))

    def _run(self, node: int, port: int, arguments: tuple[object, ...]) -> Ended:
        folder = self.folder(node)
        folder.mkdir(parents=True, exist_ok=True)
        words = [str(word).replace("{node}", str(folder)) for word in arguments]
        warm = SECOND if node else WARM
        # Not in its folder, whose path is too long for sockets.
        with tempfile.TemporaryDirectory(prefix=f"avrt-node{node}-", ignore_cleanup_errors=True) as temporary:
            environment = self._environment(node, port) | {"TMPDIR": temporary} | self.changed
            try:
                done = warm.run(words, timeout=300, cwd=folder, environment=environment)
            except subprocess.TimeoutExpired as error:
                raise AssertionError(f"node {node} hangs: {error.stderr}") from None
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic())

    def _environment(self, node: int, port: int) -> dict[str, str]:
        folder = self.folder(node)
        kept = {name: value for name, value in os.environ.items() if name not in HANDS and "SLURM" not in name}
        place = {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": str(port)}
        if self.slurm:
            place |= {
                "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "avrt", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_NNODES": "2", "SLURM_PROCID": str(node), "SLURM_LOCALID": "0", "SLURM_NODEID": str(node),
                "SLURM_STEP_ID": "0", "SLURM_NODELIST": "n[0-1]",
            }  # fmt: skip
        else:
            place |= {"NODE_RANK": str(node)}
        own = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        built = Path(cpp_extension._get_build_directory("any", verbose=False)).parent  # or it is all compiled anew
        return {**kept, **place, **own, "TORCH_EXTENSIONS_DIR": str(built)}
