"""Streaming samples in batches: a plan's order, split over workers, resumable at any batch and on any number of ranks.

The plan says which rank takes which samples at which step, so that no sample comes twice and every rank takes the same
number of steps; any number of workers gives the same batches. What is too few for a batch is filled up with rows that
are marked invalid.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.loading.dropout import ModalityDropout
from avrt.data.loading.plans import Plan
from avrt.data.shards.members import decode_members
from avrt.errors import AvrtError, BadSampleError

Step = tuple[int, list[int | None]]


class SampleSource(Protocol):
    """Random access to raw samples, such as a `ShardSet`."""

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample; see `ShardSet.read`."""

    def name(self, index: int) -> str:
        """What one sample goes by in messages."""

    def announce(self, index: int) -> None:
        """Say that a sample will be read before long; see `ShardSet.announce`."""


class BatchStream:
    """A resumable loader of one rank's batches.

    It satisfies Lightning's protocol of a stateful loader: `state_dict` tells what was handed out, not what workers
    have read ahead. The state is the same on every rank, and another number of ranks can go on from it.

    Args:
        source: The data.
        plan: The order.
        rank: This rank.
        preprocessor: Makes model inputs, in the workers.
        num_workers: Worker processes; 0 reads in the main process.
        dropout: What to take from samples at random.
        fetch_ahead: How many of the rank's samples are announced to the source before they are read.
    """

    def __init__(
        self,
        source: SampleSource,
        plan: Plan,
        rank: int,
        preprocessor: Preprocessor,
        num_workers: int = 0,
        dropout: ModalityDropout | None = None,
        fetch_ahead: int = 0,
    ) -> None:
        self.plan = plan
        self._rank = rank
        self._source = source
        self._fetch_ahead = fetch_ahead
        self._make_row = _RowMaker(source, preprocessor, dropout)
        self._collate = collate
        self._num_workers = num_workers
        self._epoch = 0
        self._position = 0
        self._resumed = False

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.plan.steps

    def __iter__(self) -> Iterator[OmniBatch]:
        """The rest of a resumed epoch, or else the next epoch."""
        if self._position and not self._resumed:
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = False
        steps = _PlannedSteps(self.plan, self._rank, self._epoch, self._position)
        pipeline = webdataset.DataPipeline(
            steps,
            _Announce(self._source, -(-self._fetch_ahead // self.plan.batch_size)),
            _to_rows,
            webdataset.map(self._make_row),
            webdataset.batched(self.plan.batch_size, collation_fn=self._collate, partial=False),
        )
        loader = DataLoader(
            pipeline, batch_size=None, num_workers=self._num_workers, worker_init_fn=_leave_signals_to_the_trainer
        )
        for batch in _plain_errors(loader):
            batch.epoch, batch.step = self._epoch, self._position // self.plan.stretch
            self._position += self.plan.stretch
            batch.position = self._position
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and the position in it behind the last batch that was handed out."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the batch at which `state` was taken, by this or another number of ranks."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._resumed = True
        if not self.plan.steps_left(self._position):
            self._epoch, self._position = self._epoch + 1, 0


def _plain_errors(batches: Iterable[OmniBatch]) -> Iterator[OmniBatch]:
    """What a loader yields; an error from one of its workers without the traceback that the loader writes into it."""
    try:
        yield from batches
    except AvrtError as error:
        raise AvrtError(str(error).strip().rpartition("AvrtError: ")[2]) from None


def _leave_signals_to_the_trainer(worker: int) -> None:
    """In a worker: Ctrl-C reaches every process of the terminal, but the step that is under way needs its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler of a trainer that saves first


class _PlannedSteps(IterableDataset):
    """First stage of the pipeline: epoch and sample indices of this worker's steps, in the plan's order."""

    def __init__(self, plan: Plan, rank: int, epoch: int, position: int) -> None:
        self._plan, self._rank, self._epoch, self._position = plan, rank, epoch, position

    def __iter__(self) -> Iterator[Step]:
        worker = get_worker_info()
        # A DataLoader takes one batch from each worker in turn, beginning with worker 0.
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step, indices in enumerate(self._plan.rows(self._epoch, self._rank, self._position)):
            if step % workers == mine:
                yield self._epoch, indices


class _Announce:
    """Second stage: tells the source which samples come, so many steps before they do."""

    def __init__(self, source: SampleSource, steps: int) -> None:
        self._source, self._steps = source, steps

    def __call__(self, steps: Iterable[Step]) -> Iterator[Step]:
        worker = get_worker_info()
        ahead = -(-self._steps // (worker.num_workers if worker else 1))
        waiting: deque[Step] = deque()
        for step in steps:
            waiting.append(step)
            if ahead:
                for index in step[1]:
                    if index is not None:
                        self._source.announce(index)
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting


def _to_rows(steps: Iterable[Step]) -> Iterator[tuple[int, int | None]]:
    """Third stage: epoch and index of each row; None for a filler."""
    return ((epoch, index) for epoch, indices in steps for index in indices)


class _RowMaker:
    """Fourth stage: a one-row batch of each sample, or a filler row that says what was wrong with it."""

    def __init__(self, source: SampleSource, preprocessor: Preprocessor, dropout: ModalityDropout | None) -> None:
        self._source = source
        self._preprocessor = preprocessor
        self._dropout = dropout

    def __call__(self, place: tuple[int, int | None]) -> OmniBatch:
        epoch, index = place
        if index is None:
            return self._preprocessor.padding_row()
        dropped = None
        try:
            sample, clip = decode_members(self._source.read(index))
            if self._dropout is not None:
                clip, dropped = self._dropout.apply(clip, epoch, index)
            row = self._preprocessor.row(sample, clip)
        except BadSampleError as error:
            row = self._preprocessor.padding_row()
            row.skipped = {self._source.name(index): str(error)}
        row.indices, row.dropped = [index], [dropped] if dropped else []
        return row
