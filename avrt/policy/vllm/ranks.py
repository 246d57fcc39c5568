"""Ranks that share one engine: the first of them, the leader, asks it for all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch import distributed

from avrt.distributed import world_size
from avrt.errors import AvrtError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long ranks wait for the one that talks to the engine, which may have to start it again."""


def engine_of(rank: int, ranks: int, engines: int) -> int:
    """Number of a rank's engine: neighbours share one, and each has its own where there are enough."""
    return rank if engines >= ranks else rank * engines // ranks


class EngineRanks:
    """One rank's view of those that share its engine; by itself where each has its own.

    Args:
        rank: Number of this process.
        engines: Number of engines; 0 if each rank starts its own.

    Attributes:
        engine: Number of this rank's engine.
        is_leader: Whether this rank talks to it.
    """

    def __init__(self, rank: int, engines: int) -> None:
        ranks = world_size()
        self.is_leader = True
        self.engine = engine_of(rank, ranks, engines) if engines else rank
        self._members = [rank]
        self._group: distributed.ProcessGroup | None = None
        if not engines or engines >= ranks:
            return
        for engine in range(engines):  # every rank takes part in making every group
            members = [r for r in range(ranks) if engine_of(r, ranks, engines) == engine]
            group = distributed.new_group(members, timeout=PATIENCE, backend="gloo")
            if isinstance(group, distributed.ProcessGroup):
                self._members, self._group = members, group
        self.is_leader = rank == self._members[0]

    def gather(self, value: T) -> list[T]:
        """Each rank's value, in their order, for the leader; nothing for the others."""
        if self._group is None:
            return [value]
        values: list[T] | None = [value] * len(self._members) if self.is_leader else None
        distributed.gather_object(value, values, dst=self._members[0], group=self._group)
        return values or []

    def scatter(self, work: Callable[[], list[T]]) -> T:
        """The leader does something and has a value for each rank; where it fails, all fail.

        Raises:
            AvrtError: Of the leader's.
        """
        if self._group is None:
            return work()[0]
        outcomes: list[T | AvrtError] = []
        if self.is_leader:
            try:
                outcomes = [*work()]
            except AvrtError as error:
                outcomes = [error] * len(self._members)
        mine: list[T | AvrtError | None] = [None]
        distributed.scatter_object_list(mine, outcomes or None, src=self._members[0], group=self._group)
        if isinstance(mine[0], AvrtError):
            raise mine[0]
        return mine[0]  # type: ignore[return-value]

    def for_all(self, work: Callable[[], T]) -> T:
        """The leader does something; all have what it found."""
        return self.scatter(lambda: [work()] * len(self._members))
