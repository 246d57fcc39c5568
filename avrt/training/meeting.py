"""What the nodes of a run tell each other before anything is loaded, and what has to hold for them to begin.

They talk through the store at which their processes meet, so that a node whose folder, checkpoint or version is not
right ends all of them with one line, before any of them waits in a collective.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from avrt.errors import AvrtError
from avrt.run_folder import LAST, LAST_OR_NEW, complete_checkpoints
from avrt.training.run_log.options import flat, flat_options

_PATHS = (
    "data.train", "data.val", "model.checkpoint", "model.student.source", "model.student.feature_cache.folder",
    "model.vllm.python", "model.vllm.model",
)  # fmt: skip
"""Options that may be another path on every node; what lies there is compared where it matters, as are shards."""
_TRAINER = (
    "min_epochs", "min_steps", "max_time", "fast_dev_run", "limit_val_batches", "limit_test_batches",
    "limit_predict_batches", "num_sanity_val_steps", "val_check_interval", "check_val_every_n_epoch",
)  # fmt: skip
"""Options of the trainer that say when processes meet, beside those that make the student what it is."""


class Store(Protocol):
    """What is needed of `torch.distributed.Store`."""

    def set(self, key: str, value: str, /) -> None:
        """Set a value."""

    def get(self, key: str, /) -> bytes:
        """A value, once somebody has set it."""


@dataclass(frozen=True)
class Start:
    """What a process knows of its run before it has met the others.

    Attributes:
        folder: The run's folder, which may be another one on every node.
        writes: Whether the run leaves files behind.
        given: `--ckpt_path` as it was given.
        checkpoint: What that is on this node.
        error: What this node would end with.
        fits: Whether the run trains.
        options: Of the configuration, what has to be the same everywhere; see `same_options`.
    """

    folder: Path
    writes: bool = True
    given: str | None = None
    checkpoint: Path | None = None
    error: AvrtError | None = None
    fits: bool = True
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeReport:
    """What a node tells of itself.

    Attributes:
        node: Its number.
        host: Its name.
        folder: Where it keeps the run.
        given: `--ckpt_path` as it was given there.
        checkpoint: Name of the checkpoint that it would take.
        complete: Names of the complete checkpoints beside that one, the newest last.
        error: What it would end with.
        options: Of its configuration, what has to be the same.
        versions: Of the packages that have to be the same.
    """

    node: int
    host: str
    folder: str
    given: str | None
    checkpoint: str | None
    complete: list[str]
    error: str | None
    options: dict[str, Any]
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return node_name(self.node, self.host)


class Exchange:
    """Where the nodes lay down what they tell, and take what all have told.

    Args:
        store: The store that their processes share.
        node: This process's node.
        nodes: How many there are.
        speaks: Whether this process speaks for its node.
    """

    def __init__(self, store: Store, node: int, nodes: int, *, speaks: bool) -> None:
        self._store, self._node, self._nodes, self._speaks = store, node, nodes, speaks

    def gather(self, about: str, value: Any) -> list[Any]:
        """What each node tells, in their order; every process has to call it."""
        if self._speaks:
            self._store.set(f"{about}/{self._node}", json.dumps(value))
        if self.is_first:
            told = [json.loads(self._store.get(f"{about}/{node}")) for node in range(self._nodes)]
            self._store.set(about, json.dumps(told))
        everything: list[Any] = json.loads(self._store.get(about))
        return everything

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the first node."""
        return self._speaks and not self._node

    def from_first(self, about: str, value: Any) -> Any:
        """What the first node tells; only its speaker's value counts."""
        if self.is_first:
            self._store.set(about, json.dumps(value))
        return json.loads(self._store.get(about))


def same_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of the options that have to be the same on every node; one that is not set is left out.

    Args:
        config: The parsed configuration of a command, as nested dicts.
    """
    trainer = {name: config.get("trainer", {}).get(name) for name in _TRAINER}
    found = flat_options(config) | dict(flat("checkpoint", config.get("checkpoint"))) | dict(flat("trainer", trainer))
    return {name: value for name, value in found.items() if name not in _PATHS}


def node_name(node: int, host: str) -> str:
    """What a node is called in messages."""
    return f"node {node} ({host})"


def report_of(start: Start, node: int, host: str, versions: dict[str, str]) -> dict[str, Any]:
    """What a node tells of itself, as the fields of `NodeReport`."""
    found = start.checkpoint
    complete = [] if found is None else [path.name for path in complete_checkpoints(found.parent.parent)]
    return asdict(
        NodeReport(
            node=node,
            host=host,
            folder=str(start.folder),
            given=start.given,
            checkpoint=None if found is None else found.name,
            complete=complete,
            error=None if start.error is None else str(start.error),
            options=start.options,
            versions=versions,
        )
    )


def check_alike(told: Sequence[NodeReport]) -> None:
    """Refuse a run whose nodes cannot go together.

    Raises:
        AvrtError: If a node would end with an error, or has other versions or another configuration.
    """
    failing: dict[str, list[str]] = {}
    for node in told:
        if node.error is not None:
            failing.setdefault(node.error, []).append(node.name)
    if failing:
        raise AvrtError("; ".join(f"{', '.join(names)}: {error}" for error, names in failing.items()))
    for what, where, remedy in (
        ("versions", "installed packages", "install the same on every node"),
        ("options", "configuration", "give every node the same command"),
    ):
        first = getattr(told[0], what)
        for node in told[1:]:
            own = getattr(node, what)
            for name in sorted(first.keys() | own.keys()):
                if first.get(name) != own.get(name):
                    one, other = (each.get(name, "not set") for each in (first, own))
                    raise AvrtError(
                        f"{name} is {one} on {told[0].name} and {other} on {node.name}", where=where, remedy=remedy
                    )


def agreed_checkpoint(told: Sequence[NodeReport], *, fits: bool) -> str | None:
    """The name of the checkpoint from which all nodes go on: under `last` the newest that each of them has.

    Args:
        told: The nodes.
        fits: Whether the run trains; else they all have to have found the same.

    Raises:
        AvrtError: If they have none in common.
    """
    names = {node.checkpoint for node in told}
    if len(names) == 1:
        return names.pop()
    if fits and all(node.given in (LAST, LAST_OR_NEW) for node in told):
        common = set.intersection(*(set(node.complete) for node in told))
        if common:
            # As on one node it is the one that was made last, not that with the highest number.
            return next(name for name in reversed(told[0].complete) if name in common)
    has = ", ".join(f"{node.name} {node.checkpoint or 'none'}" for node in told)
    without = [node for node in told if node.checkpoint is None]
    where = f"{without[0].folder} on {without[0].name}" if without else "ckpt_path"
    raise AvrtError(
        f"the nodes do not have the same checkpoint: {has}",
        where=where,
        remedy="bring the folder of its node back, or begin anew in an empty one on every node",
    )


def folder_is_shared(exchange: Exchange, folder: Path) -> bool:
    """Whether all nodes see one run folder: each looks for a file that the first one has written there.

    Raises:
        AvrtError: If some do and some do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".{uuid.uuid4().hex}"
    if exchange.is_first:
        token.touch()
    token = folder / exchange.from_first("token", token.name)
    seen = exchange.gather("seen", token.is_file())
    if exchange.is_first:  # everybody has looked
        token.unlink()
    if all(seen):
        return True
    if any(seen[1:]):
        which = ", ".join(str(node) for node, sees in enumerate(seen) if not sees)
        raise AvrtError(
            f"is shared by some nodes, but not by node {which}",
            where="trainer.default_root_dir",
            remedy="set it to a folder that all nodes share, or to one that each has for itself",
        )
    return False


def check_parts(told: Sequence[NodeReport], parts: Sequence[Sequence[int]], made_by: int, world_size: int) -> None:
    """Refuse a checkpoint whose parts do not lie where this run would read them.

    Args:
        told: The nodes.
        parts: Which ranks' parts each node has in its folder.
        made_by: How many ranks made the checkpoint.
        world_size: How many ranks this run has, as many on each node.

    Raises:
        AvrtError: Naming the nodes, and what to do.
    """
    name, per_node = told[0].checkpoint, world_size // len(told)
    where = f"{name}, whose parts lie on several nodes"
    together = f"or bring all {made_by} parts into the checkpoint's folder on every node (rsync)"
    if made_by != world_size:
        if any(set(have) != set(range(made_by)) for have in parts):
            raise AvrtError(
                f"was made by {made_by} processes and is to be cut anew for {world_size}, which needs all its parts in "
                "one folder",
                where=where,
                remedy=f"go on with {made_by} processes on the same nodes in the same order, {together}",
            )
        return
    for node, have in zip(told, parts, strict=True):
        needed = set(range(node.node * per_node, (node.node + 1) * per_node))
        if missing := sorted(needed - set(have)):
            holders = [other.name for other, theirs in zip(told, parts, strict=True) if missing[0] in theirs]
            elsewhere = f"it lies on {holders[0]}" if holders else "it lies on none of these nodes"
            raise AvrtError(
                f"{node.name} lacks the part of rank {missing[0]}; {elsewhere}",
                where=where,
                remedy=f"start the same nodes in the same order, {together}",
            )
