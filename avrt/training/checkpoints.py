"""When a run is saved: at intervals, at its end, and when a signal asks it to stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from avrt.messages import print_results
from avrt.run_folder import LAST, checkpoint_folder, complete_checkpoints
from avrt.training.lifeline import close_lifeline
from avrt.training.lightning_internals import OpenModelCheckpoint, progress


class RunCheckpoint(OpenModelCheckpoint):
    """Keep the newest checkpoint of a run under `<default_root_dir>/checkpoints`, also the one at its end.

    A checkpoint counts only when it is complete, and the one before is deleted after that, so that a run killed at any
    moment can be resumed. Ctrl-C and SIGTERM end a training run after the step that it is at, with a checkpoint; a
    second Ctrl-C ends it at once, without. A `fast_dev_run` saves nothing.

    Args:
        every_n_train_steps: How often, in optimizer steps.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        super().__init__(
            filename="step-{step:06d}", auto_insert_metric_name=False, every_n_train_steps=every_n_train_steps
        )
        self._saved = (0, 0)
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Place the checkpoints inside the run's folder."""
        own = str(checkpoint_folder(Path(trainer.default_root_dir)))
        self.dirpath = own
        super().setup(trainer, pl_module, stage)
        self.dirpath = own  # not that of the first node, whose folder may have another path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note where this run begins, and take over Ctrl-C and SIGTERM."""
        super().on_train_start(trainer, pl_module)
        self._saved = progress(trainer)
        self._signal = None
        signals = [signal.SIGINT, signal.SIGTERM]
        if callable(signal.getsignal(signal.SIGUSR1)):
            # Under Slurm Lightning would save within whatever the step is doing, each process elsewhere.
            signals.append(signal.SIGUSR1)
        try:
            self._handlers = {number: signal.signal(number, self._note) for number in signals}
        except ValueError:  # not the main thread: whoever runs this one handles signals
            self._handlers = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if as many steps were taken since the last time; stop if a signal came."""
        every = self.interval
        # Several updates on one rollout may pass over a multiple.
        if every > 0 and trainer.global_step // every > self._saved[0] // every:
            self._save(trainer)
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop if a signal came; what is saved is the state after the last training batch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it was saved just now, and give the signals back."""
        self._save(trainer)
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back; nothing is saved, since the other ranks may be elsewhere."""
        self._release()

    def _save(self, trainer: pl.Trainer) -> None:
        if is_trial(trainer) or progress(trainer) == self._saved:
            return
        self.save_now(trainer)
        self._saved = progress(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Save and stop on all ranks if one of them was told to."""
        asked = torch.tensor(self._signal or 0, device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if not (number := int(asked)):
            return
        name = signal.Signals(number).name
        if is_trial(trainer):
            rank_zero_info(f"{name}: stopped after step {trainer.global_step}; a trial run saves nothing")
        else:
            rank_zero_info(f"{name}: saving after step {trainer.global_step}")
        self._save(trainer)
        trainer.strategy.barrier("stop")
        found = complete_checkpoints(Path(trainer.default_root_dir))
        if trainer.is_global_zero and found and not is_trial(trainer):
            print_results("checkpoint", found[-1], f"go on by the same command with --ckpt_path {LAST}")
        self._release()
        close_lifeline(None)  # every process ends here: none is lost
        raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException(128 + number)

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def candidates_for_last(self, trainer: pl.Trainer) -> set[str]:
        """The complete ones."""
        return {str(path) for path in complete_checkpoints(Path(trainer.default_root_dir))}


def is_trial(trainer: pl.Trainer) -> bool:
    """Whether this is a `fast_dev_run`, which leaves nothing behind."""
    return bool(vars(trainer).get("fast_dev_run"))
