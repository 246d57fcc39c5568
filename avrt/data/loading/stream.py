"""Batches of one rank in the order of a plan, resumable at any batch and on any number of ranks.

The plan says which rank takes which samples at which step: no sample comes twice, and all ranks take the same number of
steps. Any number of workers gives the same batches. Padding samples, marked as invalid, fill incomplete batches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.loading.dropout import ModalityDropout
from avrt.data.loading.kept import KeptSamples, members_key
from avrt.data.loading.plans import Plan
from avrt.data.shards.members import decode_members, decode_record
from avrt.errors import AvrtError, BadSampleError

Step = tuple[int, list[int | None]]
_ADDRESS, _LONGEST = "/pymp-12345678/listener-12345678", 103 if sys.platform == "darwin" else 107
"""What `multiprocessing` adds to the folder for temporary files, and how many bytes a socket's address may have."""


class SampleSource(Protocol):
    """Random access to raw samples, such as a `ShardSet`."""

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample, as `ShardSet.read` returns them."""

    def name(self, index: int) -> str:
        """The name of one sample in messages."""

    def prefetch(self, index: int) -> None:
        """Start to fetch a sample that will be read soon, if fetching takes time."""


class BatchStream:
    """A resumable loader of one rank's batches.

    It follows Lightning's protocol of a stateful loader: `state_dict` counts batches that were handed out, not those
    that workers have read ahead. The state is the same on every rank, and another number of ranks can resume from it.

    Args:
        source: The samples.
        plan: Their order.
        rank: This rank.
        preprocessor: Makes model inputs, in the workers.
        num_workers: Worker processes; 0 reads in the main process.
        dropout: Takes senses from samples at random.
        fetch_ahead: How many of the rank's samples are prefetched.
        keep_gigabytes: How much is kept in memory of what was read and prepared; nothing with workers, which end with
            each epoch, or with dropout.
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
        keep_gigabytes: float = 0.0,
    ) -> None:
        self.plan = plan
        self._rank = rank
        self._source = source
        self._fetch_ahead = fetch_ahead
        self._make_row = _RowMaker(
            source, preprocessor, dropout, KeptSamples(keep_gigabytes) if keep_gigabytes and not num_workers else None
        )
        self._collate = collate
        self._num_workers = num_workers
        self._epoch = 0
        self._consumed = 0
        self._resumed = False

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.plan.steps

    def __iter__(self) -> Iterator[OmniBatch]:
        """The rest of a resumed epoch, or the next epoch."""
        if self._consumed and not self._resumed:
            self._epoch, self._consumed = self._epoch + 1, 0
        self._resumed = False
        steps = _PlannedSteps(self.plan, self._rank, self._epoch, self._consumed)
        pipeline = webdataset.DataPipeline(
            steps,
            _Prefetch(self._source, -(-self._fetch_ahead // self.plan.batch_size)),
            _to_rows,
            webdataset.map(self._make_row),
            webdataset.batched(self.plan.batch_size, collation_fn=self._collate, partial=False),
        )
        loader = DataLoader(
            pipeline, batch_size=None, num_workers=self._num_workers, worker_init_fn=_leave_signals_to_the_trainer
        )
        for batch in _plain_errors(loader):
            batch.epoch, batch.step = self._epoch, self._consumed // self.plan.global_step_size
            self._consumed += self.plan.global_step_size
            batch.consumed = self._consumed
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how much of it is consumed after the last batch that was handed out."""
        return {"epoch": self._epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch at which `state` was taken, on this or another number of ranks."""
        self._epoch, self._consumed = state["epoch"], state["consumed"]
        self._resumed = True
        if not self.plan.steps_left(self._consumed):
            self._epoch, self._consumed = self._epoch + 1, 0


def check_temporary_folder() -> None:
    """Refuse a folder for temporary files in which workers could not hand over their batches.

    Raises:
        AvrtError: If its path is too long for the sockets by which they do it.
    """
    folder = tempfile.gettempdir()
    too_long = len(os.fsencode(folder + _ADDRESS)) - _LONGEST
    if too_long > 0:
        raise AvrtError(
            f"the path is {too_long} bytes too long for the sockets of worker processes: {folder}",
            where="TMPDIR",
            remedy="set TMPDIR to a shorter folder, or data.num_workers to 0",
        )


def _plain_errors(batches: Iterable[OmniBatch]) -> Iterator[OmniBatch]:
    """The batches of a loader; from errors of its workers the traceback that the loader adds is removed."""
    try:
        yield from batches
    except AvrtError as error:
        raise AvrtError(str(error).strip().rpartition("AvrtError: ")[2]) from None


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Let a worker survive signals that reach every process, since the trainer finishes the current step.

    Those are Ctrl-C in a terminal, and Slurm's SIGTERM before the time is up. The trainer ends its workers by SIGTERM
    too, where they do not end by themselves: the sender tells the two apart, which a handler in Python is not told.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # instead of the trainer's handler, which saves a checkpoint
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which threads that begin later inherit
        trainer = multiprocessing.parent_process()  # under `forkserver` another one than the system's parent
        assert trainer is not None
        threading.Thread(target=_end_by_the_trainer, args=(trainer.pid,), daemon=True).start()


def _end_by_the_trainer(trainer: int) -> None:
    """Run in a thread: end this process when the trainer says so."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)  # as PyTorch's own handler does, which ours replaces


class _PlannedSteps(IterableDataset[Step]):
    """First stage of the pipeline: epoch and sample indices of each of this worker's steps."""

    def __init__(self, plan: Plan, rank: int, epoch: int, consumed: int) -> None:
        self._plan, self._rank, self._epoch, self._consumed = plan, rank, epoch, consumed

    def __iter__(self) -> Iterator[Step]:
        worker = get_worker_info()
        # a DataLoader takes one batch from each worker in turn, beginning with worker 0
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step, indices in enumerate(self._plan.rows(self._epoch, self._rank, self._consumed)):
            if step % workers == mine:
                yield self._epoch, indices


class _Prefetch:
    """Second stage: prefetches samples some steps before they are read."""

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
                        self._source.prefetch(index)
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting


def _to_rows(steps: Iterable[Step]) -> Iterator[tuple[int, int | None]]:
    """Third stage: epoch and index of each sample; None for a padding sample."""
    return ((epoch, index) for epoch, indices in steps for index in indices)


class _RowMaker:
    """Fourth stage: a batch of one for each sample; an unreadable one becomes a padding sample that names the fault."""

    def __init__(
        self,
        source: SampleSource,
        preprocessor: Preprocessor,
        dropout: ModalityDropout | None,
        kept: KeptSamples | None = None,
    ) -> None:
        self._source = source
        self._preprocessor = preprocessor
        self._dropout = dropout
        self._kept = kept

    def __call__(self, place: tuple[int, int | None]) -> OmniBatch:
        epoch, index = place
        if index is None:
            return self._preprocessor.padding_row()
        dropped = None
        try:
            if self._kept is not None and self._dropout is None:
                return self._kept_row(index, self._kept)
            sample, clip = decode_members(self._source.read(index))
            if self._dropout is not None:
                clip, dropped = self._dropout.apply(clip, epoch, index)
            row = self._preprocessor.row(sample, clip)
        except BadSampleError as error:
            row = self._preprocessor.padding_row()
            row.skipped = {self._source.name(index): str(error)}
        row.indices, row.dropped = [index], [dropped] if dropped else []
        return row

    def _kept_row(self, index: int, kept: KeptSamples) -> OmniBatch:
        """A sample's row; of what was read before nothing is read or made again."""
        if (row := kept.row(index)) is not None:
            return row
        raw = self._source.read(index)
        sample = decode_record(raw)
        self._preprocessor.check_target(sample)
        media = kept.clip(key := members_key(raw, sample.media))
        if media is None:
            _, clip = decode_members(raw)
            kept.keep_clip(key, media := self._preprocessor.clip_inputs(clip))
        row = self._preprocessor.row_of(sample, media)
        row.indices = [index]
        kept.keep_row(index, row)
        return row
