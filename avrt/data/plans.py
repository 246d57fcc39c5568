"""Which sample goes to which rank at which step: a seeded order for training, fixed batches for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


class Plan(Protocol):
    """What a stream needs to know about the order of samples."""

    @property
    def batch_size(self) -> int:
        """Rows per rank and step."""

    @property
    def steps(self) -> int:
        """Steps per epoch, the same on every rank."""

    def rows(self, epoch: int, rank: int, start: int = 0) -> Iterator[tuple[int, list[int | None]]]:
        """Step number and sample indices of one rank, from step `start` on; None stands for a filler row."""


@dataclass(frozen=True)
class EpochPlan:
    """The training order: seeded, and cut evenly over the ranks.

    Attributes:
        samples: Size of the data set.
        batch_size: Rows per rank and step.
        world_size: Number of ranks.
        seed: Seed of the order.
        shuffle: Whether the order changes from epoch to epoch at all.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    seed: int = 0
    shuffle: bool = True

    @property
    def steps(self) -> int:
        """See `Plan.steps`."""
        return -(-self.samples // (self.batch_size * self.world_size))

    def order(self, epoch: int) -> np.ndarray:
        """(samples,) the epoch's global order."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples)

    def rows(self, epoch: int, rank: int, start: int = 0) -> Iterator[tuple[int, list[int | None]]]:
        """See `Plan.rows`."""
        order = self.order(epoch).tolist()
        stretch = self.batch_size * self.world_size
        for step in range(start, self.steps):
            picked = order[step * stretch : (step + 1) * stretch]
            padded = picked + [None] * (stretch - len(picked))
            yield step, padded[rank :: self.world_size]


@dataclass(frozen=True)
class BlockPlan:
    """The evaluation order: batches of neighbouring samples, handed to the ranks in turn.

    What is in a batch depends neither on the number of ranks nor on what was answered before, so that the same
    numbers are computed however a run was spread or interrupted.

    Attributes:
        samples: Size of the data set.
        batch_size: Rows per batch.
        world_size: Number of ranks.
        done: Samples that need no answer any more; batches of nothing else are left out.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    done: Collection[int] = field(default_factory=frozenset)

    @property
    def steps(self) -> int:
        """See `Plan.steps`."""
        return -(-len(self._blocks()) // self.world_size)

    def rows(self, epoch: int, rank: int, start: int = 0) -> Iterator[tuple[int, list[int | None]]]:
        """See `Plan.rows`."""
        blocks = self._blocks()
        for step in range(start, self.steps):
            number = step * self.world_size + rank
            block: list[int | None] = list(blocks[number]) if number < len(blocks) else []
            yield step, block + [None] * (self.batch_size - len(block))

    def _blocks(self) -> list[range]:
        done = self.done if isinstance(self.done, (set, frozenset)) else frozenset(self.done)
        blocks = (
            range(first, min(first + self.batch_size, self.samples))
            for first in range(0, self.samples, self.batch_size)
        )
        return [block for block in blocks if not all(i in done for i in block)]
