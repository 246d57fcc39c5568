"""Streaming samples in batches: a plan's order, split over workers, resumable at any batch.

The plan says which rank takes which samples at which step, so that no sample comes twice and every rank takes the same
number of steps; any number of workers gives the same batches. What is too few for a batch is filled up with rows that
are marked invalid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avrt.data.inputs import InputBuilder, OmniBatch
from avrt.data.members import decode_members
from avrt.data.plans import Plan
from avrt.errors import BadSampleError

FILLER = "__filler__"


class SampleSource(Protocol):
    """Random access to raw samples, such as a `ShardSet`."""

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample; see `ShardSet.read`."""


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
        self, shards: SampleSource, plan: Plan, rank: int, builder: InputBuilder, num_workers: int = 0
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

    def __init__(self, shards: SampleSource, plan: Plan, rank: int, epoch: int, start: int) -> None:
        self._shards, self._plan, self._rank, self._epoch, self._start = shards, plan, rank, epoch, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # A DataLoader takes one batch from each worker in turn, beginning with worker 0.
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step, indices in self._plan.rows(self._epoch, self._rank, self._start):
            if (step - self._start) % workers == mine:
                for index in indices:
                    yield {"__key__": FILLER} if index is None else {**self._shards.read(index), "__index__": index}


class _RowMaker:
    """Second stage: a one-row batch of each raw sample, or a filler row that says what was wrong with it."""

    def __init__(self, builder: InputBuilder) -> None:
        self._builder = builder

    def __call__(self, raw: dict[str, Any]) -> OmniBatch:
        if raw["__key__"] == FILLER:
            return self._builder.filler()
        try:
            row = self._builder.row(*decode_members(raw))
        except BadSampleError as error:
            row = self._builder.filler()
            row.skipped = {f"{raw['__url__']}:{raw['__key__']}": str(error)}
        row.indices = [raw["__index__"]]
        return row
