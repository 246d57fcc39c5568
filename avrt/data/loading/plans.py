"""Which rank takes which samples at which step: an order divided among the ranks, or fixed batches for evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from dataclasses import dataclass

from avrt.data.loading.order import SampleOrder


class Plan(ABC):
    """The order of samples as a `BatchStream` sees it.

    `consumed` says how much of an epoch all ranks have consumed together. It means the same for any number of ranks, so
    that another number of ranks can resume a run.

    Attributes:
        batch_size: Samples per rank and step.
    """

    batch_size: int

    @property
    @abstractmethod
    def global_step_size(self) -> int:
        """How much a step of all ranks consumes."""

    @abstractmethod
    def __len__(self) -> int:
        """What is consumed at the end of an epoch."""

    @abstractmethod
    def rows(self, epoch: int, rank: int, consumed: int = 0) -> Iterator[list[int | None]]:
        """The sample indices of one rank's steps, once so much is consumed; None stands for a padding sample."""

    @property
    def steps(self) -> int:
        """Steps of a whole epoch, the same on every rank."""
        return self.steps_left(0)

    def steps_left(self, consumed: int) -> int:
        """Steps of an epoch that are left once so much is consumed."""
        return -(-max(0, len(self) - consumed) // self.global_step_size)


@dataclass(frozen=True)
class EpochPlan(Plan):
    """The training order, divided evenly among the ranks; `consumed` counts samples.

    Attributes:
        order: The order of all ranks' samples in each epoch.
        batch_size: Samples per rank and step.
        world_size: Number of ranks.
    """

    order: SampleOrder
    batch_size: int
    world_size: int = 1

    @property
    def global_step_size(self) -> int:
        """Samples of all ranks in a step."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.order)

    def rows(self, epoch: int, rank: int, consumed: int = 0) -> Iterator[list[int | None]]:
        """Every rank takes each `world_size`-th sample; padding samples fill the last step."""
        order = self.order.epoch(epoch).tolist()
        for first in range(consumed, len(order), self.global_step_size):
            picked = order[first : first + self.global_step_size]
            padded = picked + [None] * (self.global_step_size - len(picked))
            yield padded[rank :: self.world_size]


@dataclass(frozen=True)
class BlockPlan(Plan):
    """The evaluation order: batches of neighbouring samples, which the ranks take in turn; `consumed` counts batches.

    The samples of a batch depend neither on the number of ranks nor on earlier answers, so that an interrupted run or
    another number of ranks computes the same numbers.

    Attributes:
        samples: Size of the data set.
        batch_size: Samples per batch.
        world_size: Number of ranks.
        done: Samples that are answered; batches with no other samples are left out.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    done: Set[int] = frozenset()

    @property
    def global_step_size(self) -> int:
        """Batches of all ranks in a step."""
        return self.world_size

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._blocks())

    def rows(self, epoch: int, rank: int, consumed: int = 0) -> Iterator[list[int | None]]:
        """Every rank takes each `world_size`-th batch; padding samples fill what is missing."""
        blocks = self._blocks()
        for first in range(consumed, len(blocks), self.global_step_size):
            number = first + rank
            block: list[int | None] = list(blocks[number]) if number < len(blocks) else []
            yield block + [None] * (self.batch_size - len(block))

    def _blocks(self) -> list[range]:
        """The batches that hold a sample without an answer."""
        blocks = (
            range(first, min(first + self.batch_size, self.samples))
            for first in range(0, self.samples, self.batch_size)
        )
        return [block for block in blocks if not all(i in self.done for i in block)]
