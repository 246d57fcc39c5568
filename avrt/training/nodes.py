"""Runs on several nodes (`trainer.num_nodes`): how their processes meet, and which of them keep the run's files.

Lightning starts or finds the processes of a node and numbers them all. What it leaves open is here: a clear end where a
node does not come or is lost, a start that no node makes alone, and run folders that the nodes do not share.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from avrt.distributed import gather_objects
from avrt.errors import AvrtError
from avrt.training.deepspeed_internals import complete_parts, made_by, parts_of
from avrt.training.lifeline import Lifeline, ListenAddress, lost
from avrt.training.lightning_internals import group_settings
from avrt.training.meeting import (
    Exchange,
    NodeReport,
    Start,
    agreed_checkpoint,
    check_alike,
    check_parts,
    folder_is_shared,
    node_name,
    report_of,
)

SAME = ("avrt", "torch", "lightning", "transformers", "deepspeed")
"""Packages that have to have the same version on every node."""
_BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
_PATIENCE = 10.0


class OnNodes(DDPStrategy):
    """What strategies have in common on several nodes; on one node everything is as Lightning has it.

    Attributes:
        patience_minutes: How long a node waits for the others.
        files_are_shared: Whether all nodes see one run folder; if not, each keeps the files of its own processes.
        nodes: What each node has told of itself, on several nodes.
    """

    patience_minutes = _PATIENCE
    files_are_shared = True
    nodes: tuple[NodeReport, ...] = ()
    _start: Start | None = None
    _agreed: Path | None = None
    _parts = 0

    def begin(self, start: Start) -> None:
        """Tell what this process knows of its run.

        Raises:
            AvrtError: If it cannot meet the others as it was started.
        """
        self._start = start
        check_place(self.cluster_environment, self.num_processes, self.num_nodes)

    @property
    def keeps_files(self) -> bool:
        """Whether this process writes and deletes what is written once: for the run, or for its node."""
        return self.is_global_zero if self.files_are_shared else self.local_rank == 0

    def setup_distributed(self) -> None:
        """Start communication, on several nodes after all have come and agreed."""
        if self.num_nodes > 1 and not distributed.is_initialized():
            with self._missed():
                store = self._meet()
            distributed.init_process_group(
                store=PrefixStore("group", store),
                rank=self.global_rank,
                world_size=self.world_size,
                **group_settings(self),
            )
        self.start_processes()

    def start_processes(self) -> None:
        """Start communication of the processes that have met."""
        super().setup_distributed()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What only some processes do, but all have to end for if it fails; all have to enter.

        Raises:
            AvrtError: On every process, the first that one of them met.
        """
        met: AvrtError | None = None
        try:
            yield
        except AvrtError as error:
            met = error
        for first in gather_objects(met):
            if first is not None:
                raise first

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Delete a checkpoint, wherever this run has parts of it."""
        if self.keeps_files:
            self.checkpoint_io.remove_checkpoint(filepath)

    def agreed(self, checkpoint: str | Path) -> Path:
        """The checkpoint to go on from: the given one, or the one that all nodes have."""
        return self._agreed or Path(checkpoint)

    def parts_made(self, checkpoint: Path) -> int | None:
        """How many processes made a DeepSpeed checkpoint, wherever their parts are; None for another kind."""
        return self._parts or made_by(checkpoint)

    def _meet(self) -> Any:
        """Wait for the others, see that all may begin, and connect the processes; returns the store that they share.

        Raises:
            AvrtError: If a node does not come, or has something against it.
        """
        start = self._start or Start(Path.cwd(), writes=False)
        host, store = socket.gethostname(), self._come_together()
        told = PrefixStore("avrt", store)
        exchange = Exchange(told, self.node_rank, self.num_nodes, speaks=not self.local_rank)
        of = f"process {self.global_rank} on " if self.num_processes > 1 else ""
        first = node_name(0, exchange.from_first("host", host))
        name = of + node_name(self.node_rank, host)
        lifeline = Lifeline(self.world_size, name, f"process 0 on {first}" if of else first)
        self._connect(lifeline, exchange)
        versions = {package: _version(package) for package in SAME}
        self.nodes = tuple(
            NodeReport(**node) for node in exchange.gather("told", report_of(start, self.node_rank, host, versions))
        )
        check_alike(self.nodes)
        if start.error is not None:
            raise start.error
        agreed = agreed_checkpoint(self.nodes, fits=start.fits)
        if agreed is not None and start.checkpoint is not None and start.fits:
            if agreed != start.checkpoint.name:
                self._agreed = start.checkpoint.parent / agreed
            self._check_parts(exchange, self._agreed or start.checkpoint)
        if start.writes:
            self.files_are_shared = folder_is_shared(exchange, start.folder)
            rank_zero_info(self._told_of_folder(start))
        return store

    def _come_together(self) -> Any:
        environment = self.cluster_environment
        assert environment is not None
        address, port = environment.main_address, environment.main_port
        os.environ |= {
            "MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": str(self.global_rank),
            "WORLD_SIZE": str(self.world_size), "LOCAL_RANK": str(self.local_rank),
        }  # fmt: skip
        if not self.local_rank:
            sys.stderr.write(f"node {self.node_rank} of {self.num_nodes} meets the others at {address}:{port}\n")
        seconds = 60 * self.patience_minutes
        if self.global_rank:
            _reach(address, port, seconds)  # PyTorch would fill the log meanwhile
        waiting = timedelta(seconds=seconds)
        store, _, _ = next(rendezvous("env://", self.global_rank, self.world_size, timeout=waiting))
        return store

    @contextlib.contextmanager
    def _missed(self) -> Iterator[None]:
        """What it means, as one line, that the others do not come or do not go on while the nodes meet."""
        try:
            yield
        except (TimeoutError, ConnectionError, distributed.DistError) as error:
            if "EADDRINUSE" in str(error):
                raise
            if (told := lost(error)) is not None:
                raise told from error
            assert self.cluster_environment is not None
            address, port = self.cluster_environment.main_address, self.cluster_environment.main_port
            raise AvrtError(
                f"not all {self.world_size} processes of {self.num_nodes} nodes have come to {address}:{port} and told "
                f"what they begin with within {self.patience_minutes:g} min",
                where="trainer.num_nodes",
                remedy="run the same command on every node, with the same MASTER_ADDR and MASTER_PORT, an address of "
                "node 0 that the others reach",
            ) from error

    def _connect(self, lifeline: Lifeline, exchange: Exchange) -> None:
        address = os.environ["MASTER_ADDR"]
        listening = vars(lifeline.listen(address)) if not self.global_rank else None
        lifeline.open(ListenAddress(**exchange.from_first("door", listening)))

    def _check_parts(self, exchange: Exchange, checkpoint: Path) -> None:
        """See that every process finds its part of a DeepSpeed checkpoint."""
        parts = exchange.gather("parts", [sorted(parts_of(checkpoint)), complete_parts(checkpoint) or 0])
        self._parts = max(count for _, count in parts)
        if self._parts:
            check_parts(self.nodes, [have for have, _ in parts], self._parts, self.world_size)

    def _told_of_folder(self, start: Start) -> str:
        hosts = ", ".join(told.host for told in self.nodes)
        if self.files_are_shared:
            return f"{self.num_nodes} nodes ({hosts}) share the run's folder {start.folder}"
        return (
            f"{self.num_nodes} nodes ({hosts}) do NOT share the run's folder {start.folder}: each keeps the parts of "
            "its own processes. The same nodes in the same order go on with such a checkpoint; to export or evaluate "
            "it, or to change their number, bring the parts of all nodes into one folder first (rsync), or set "
            "--trainer.default_root_dir to a folder that all share"
        )


class PlainNodesStrategy(OnNodes):
    """PyTorch's data parallelism on several nodes, for runs that train nothing or without DeepSpeed.

    Args:
        patience_minutes: How long a node waits for the others.
    """

    def __init__(self, patience_minutes: float = _PATIENCE, **settings: Any) -> None:
        super().__init__(**settings)
        self.patience_minutes = patience_minutes

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint, on every node where they do not share the folder."""
        if self.keeps_files:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load the checkpoint that all nodes have; the given one may be an address, which is no path."""
        return super().load_checkpoint(self._agreed or checkpoint_path, weights_only)


def _reach(address: str, port: int, seconds: float) -> None:
    """Wait until somebody listens.

    Raises:
        TimeoutError: If nobody does within so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > until:
                raise TimeoutError(str(error)) from error
            time.sleep(0.5)
        else:
            return


def check_place(environment: Any, devices: int, nodes: int) -> None:
    """Refuse a run that does not know its place among several nodes, before it waits for them.

    Args:
        environment: Lightning's cluster environment.
        devices: Processes per node.
        nodes: Number of nodes.

    Raises:
        AvrtError: Naming the variables, or the options that do not match Slurm's.
    """
    if nodes > 1 and isinstance(environment, LightningEnvironment):
        if missing := [name for name in _BY_HAND if not os.environ.get(name)]:
            raise AvrtError(
                f"{nodes} nodes need {', '.join(missing)} in the environment",
                where="trainer.num_nodes",
                remedy="on every node: MASTER_ADDR=<node 0> MASTER_PORT=29500 NODE_RANK=<0, 1, ...> avrt ...; under "
                "Slurm start with srun",
            )
        if (given := os.environ["NODE_RANK"]) not in map(str, range(nodes)):
            raise AvrtError(
                f"{given} is not one of {nodes} nodes",
                where="NODE_RANK",
                remedy=f"set it to 0 to {nodes - 1}, or --trainer.num_nodes to their number",
            )
    try:
        environment.validate_settings(num_devices=devices, num_nodes=nodes)
    except ValueError as error:
        raise AvrtError(" ".join(str(error).split()), where="trainer.devices, trainer.num_nodes") from None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def gathering_command(strategy: Any, folder: Path) -> str | None:
    """How to bring the parts of a checkpoint into one folder; None where they are there.

    Args:
        strategy: Of the run that made it.
        folder: The checkpoint on the first node.
    """
    if not isinstance(strategy, OnNodes) or strategy.files_are_shared:
        return None
    there = [f"{told.host}:{Path(told.folder, *folder.parts[-2:])}/" for told in strategy.nodes[1:]]
    return " && ".join(f"rsync -a {shlex.quote(source)} {shlex.quote(f'{folder}/')}" for source in there)
