"""Which sample goes to which rank at which step: an order cut over the ranks, or fixed batches for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from avrt.data.loading.order import SampleOrder


class Plan(Protocol):
    """What a stream needs to know about the order of samples.

    A place in an epoch is a position: how much of the epoch all ranks have consumed together. It means the same for any
    number of ranks, so that what one number of ranks began another can finish.
    """

    @property
    def batch_size(self) -> int:
        """Rows per rank and step."""

    @property
    def stretch(self) -> int:
        """By how much a step of all ranks advances the position."""

    @property
    def steps(self) -> int:
        """Steps of a whole epoch, the same on every rank."""

    def steps_left(self, position: int) -> int:
        """Steps of an epoch from a position on."""

    def rows(self, epoch: int, rank: int, position: int = 0) -> Iterator[list[int | None]]:
        """Each step's sample indices of one rank, from a position on; None stands for a filler row."""


@dataclass(frozen=True)
class EpochPlan:
    """The training order, cut evenly over the ranks; a position counts samples.

    Attributes:
        order: The order of all ranks' samples in each epoch.
        batch_size: Rows per rank and step.
        world_size: Number of ranks.
    """

    order: SampleOrder
    batch_size: int
    world_size: int = 1

    @property
    def stretch(self) -> int:
        """See `Plan.stretch`."""
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        """See `Plan.steps`."""
        return self.steps_left(0)

    def steps_left(self, position: int) -> int:
        """See `Plan.steps_left`."""
        return -(-max(0, len(self.order) - position) // self.stretch)

    def rows(self, epoch: int, rank: int, position: int = 0) -> Iterator[list[int | None]]:
        """See `Plan.rows`; what is missing from the last step's batches is filled up."""
        order = self.order.epoch(epoch).tolist()
        for first in range(position, len(order), self.stretch):
            picked = order[first : first + self.stretch]
            padded = picked + [None] * (self.stretch - len(picked))
            yield padded[rank :: self.world_size]


@dataclass(frozen=True)
class BlockPlan:
    """The evaluation order: batches of neighbouring samples, handed to the ranks in turn; a position counts batches.

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
    def stretch(self) -> int:
        """See `Plan.stretch`."""
        return self.world_size

    @property
    def steps(self) -> int:
        """See `Plan.steps`."""
        return self.steps_left(0)

    def steps_left(self, position: int) -> int:
        """See `Plan.steps_left`."""
        return -(-max(0, len(self._blocks()) - position) // self.stretch)

    def rows(self, epoch: int, rank: int, position: int = 0) -> Iterator[list[int | None]]:
        """See `Plan.rows`."""
        blocks = self._blocks()
        for first in range(position, len(blocks), self.stretch):
            number = first + rank
            block: list[int | None] = list(blocks[number]) if number < len(blocks) else []
            yield block + [None] * (self.batch_size - len(block))

    def _blocks(self) -> list[range]:
        done = self.done if isinstance(self.done, (set, frozenset)) else frozenset(self.done)
        blocks = (
            range(first, min(first + self.batch_size, self.samples))
            for first in range(0, self.samples, self.batch_size)
        )
        return [block for block in blocks if not all(i in done for i in block)]
