"""Streaming samples in batches: a seeded order per epoch, split over ranks and workers, resumable at any batch.

The order of an epoch depends on the seed and the epoch alone. Global batch k is the k-th stretch of it, cut evenly over
the ranks, so that no sample comes twice, every rank takes the same number of steps, and any number of workers gives the
same batches. The last stretch is filled up with rows that are marked invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avrt.data.inputs import InputBuilder, OmniBatch
from avrt.data.members import decode_members
from avrt.data.shards import ShardSet
from avrt.errors import BadSampleError

FILLER = "__filler__"


@dataclass(frozen=True)
class EpochPlan:
    """Which sample goes to which rank at which step.

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
        """Steps per epoch, the same on every rank."""
        return -(-self.samples // (self.batch_size * self.world_size))

    def order(self, epoch: int) -> np.ndarray:
        """(samples,) the epoch's global order."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples)

    def rows(self, epoch: int, rank: int, start: int = 0) -> Iterator[tuple[int, list[int | None]]]:
        """Step number and sample indices of one rank, from step `start` on; None stands for a filler row."""
        order = self.order(epoch).tolist()
        stretch = self.batch_size * self.world_size
        for step in range(start, self.steps):
            picked = order[step * stretch : (step + 1) * stretch]
            padded = picked + [None] * (stretch - len(picked))
            yield step, padded[rank :: self.world_size]


class BatchStream:
    """A resumable loader of one rank's batches.

    It satisfies Lightning's protocol of a stateful loader: `state_dict` counts the batches that were handed out, not
    those that workers have read ahead.

    Args:
        shards: The data.
        plan: The order.
        rank: This rank.
        builder: Makes model inputs, in the workers.
        num_workers: Worker processes; 0 reads in the main process.
    """

    def __init__(
        self, shards: ShardSet, plan: EpochPlan, rank: int, builder: InputBuilder, num_workers: int = 0
    ) -> None:
        self._shards = shards
        self.plan = plan
        self._rank = rank
        self._builder = builder
        self._num_workers = num_workers
        self._epoch = 0
        self._step = 0
        self._resumed = False

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.plan.steps

    def __iter__(self) -> Iterator[OmniBatch]:
        """The rest of a resumed epoch, or else the next epoch."""
        if self._step and not self._resumed:
            self._epoch, self._step = self._epoch + 1, 0
        self._resumed = False
        source = _PlanSource(self._shards, self.plan, self._rank, self._epoch, self._step)
        pipeline = webdataset.DataPipeline(
            source,
            webdataset.map(_RowMaker(self._builder)),
            webdataset.batched(self.plan.batch_size, collation_fn=self._builder.collate, partial=False),
        )
        loader = DataLoader(pipeline, batch_size=None, num_workers=self._num_workers)
        for batch in loader:
            batch.epoch, batch.step = self._epoch, self._step
            self._step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out in it."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the batch at which `state` was taken."""
        self._epoch, self._step = state["epoch"], state["step"]
        self._resumed = True
        if self._step >= self.plan.steps:
            self._epoch, self._step = self._epoch + 1, 0


class _PlanSource(IterableDataset):
    """First stage of the pipeline: raw samples of this worker's batches, in the plan's order."""

    def __init__(self, shards: ShardSet, plan: EpochPlan, rank: int, epoch: int, start: int) -> None:
        self._shards, self._plan, self._rank, self._epoch, self._start = shards, plan, rank, epoch, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # A DataLoader takes one batch from each worker in turn, beginning with worker 0.
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step, indices in self._plan.rows(self._epoch, self._rank, self._start):
            if (step - self._start) % workers == mine:
                for index in indices:
                    yield {"__key__": FILLER} if index is None else self._shards.read(index)


class _RowMaker:
    """Second stage: a one-row batch of each raw sample, or a filler row that says what was wrong with it."""

    def __init__(self, builder: InputBuilder) -> None:
        self._builder = builder

    def __call__(self, raw: dict[str, Any]) -> OmniBatch:
        if raw["__key__"] == FILLER:
            return self._builder.filler()
        try:
            return self._builder.row(*decode_members(raw))
        except BadSampleError as error:
            row = self._builder.filler()
            row.skipped = {f"{raw['__url__']}:{raw['__key__']}": str(error)}
            return row
