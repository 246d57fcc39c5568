"""The progress of a training run or an evaluation: where it is, how fast, how long it still takes, and its loss."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.trainer.states import TrainerFn

from avrt.progress import Pace, ProgressDisplay
from avrt.training.lightning_internals import progress_in_epoch
from avrt.training.training_module import TrainingModule

SHOWN = {"train/loss": "loss", "rewards/total/mean": "reward", "rewards/accuracy/mean": "accuracy"}
"""Logged name -> what it is called beside the progress of training."""
SHOWN_AFTER_VALIDATION = {"val/loss": "loss", "val/accuracy": "accuracy", "val/format": "format"}


class RunProgress(ProgressBar):
    """Shows `step 12 of 55, 0.41 steps/s, about 2 min left, loss 1.23` in a log, and the same with a bar on a terminal.

    The time left is that to whichever end comes first: `max_steps`, `max_epochs` (with `limit_train_batches`) or
    `max_time`, from the pace since this run began. Steps are optimizer steps, as in logs and names of checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._display: ProgressDisplay | None = None
        self._validation = Pace()

    def disable(self) -> None:
        """Show nothing, as in all ranks but one."""
        self._shown = False

    def enable(self) -> None:
        """Show it again."""
        self._shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out where the run ends."""
        total = None
        left = self._batches(trainer, pl_module)
        if left is not None:
            done, batches = left
            updates = pl_module.num_iterations if isinstance(pl_module, TrainingModule) else 1
            total = trainer.global_step + max(0, batches - done) * updates
            if trainer.max_steps > 0:
                total = min(total, -(-trainer.max_steps // updates) * updates)
        elif trainer.max_steps > 0:
            total = trainer.max_steps
        self._begin(total, "step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step."""
        if self._display is not None:
            details = _values(trainer, SHOWN)
            self._display.update(trainer.global_step, details, self._share(trainer, pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self._end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting batches."""
        self._validation = Pace()
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._begin(_total(trainer.num_val_batches), "batch")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the batch; while training, beside the step."""
        if self._display is None or trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._display.update(batch_idx + 1)
            return
        total = _total(trainer.num_val_batches)
        self._validation.note(batch_idx + 1, (batch_idx + 1) / total)
        pace = self._validation.told()
        self._display.meanwhile(f"validation: batch {batch_idx + 1:,} of {total:,}" + (f", {pace}" if pace else ""))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the result; a command that only validates prints a table instead."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end()
        elif self._display is not None and not trainer.sanity_checking:
            values = _values(trainer, SHOWN_AFTER_VALIDATION)
            self._display.say(f"validation after step {trainer.global_step:,}: {values or 'done'}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting batches."""
        self._begin(_total(trainer.num_test_batches), "batch")

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the batch."""
        if self._display is not None:
            self._display.update(batch_idx + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self._end()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting batches."""
        self._begin(_total(trainer.num_predict_batches), "batch")

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Show the batch."""
        if self._display is not None:
            self._display.update(batch_idx + 1)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._end()

    def _begin(self, total: int | None, unit: str) -> None:
        if self._shown and not (unit == "batch" and total == 1):  # what is done at once needs no progress
            self._display = ProgressDisplay(total, unit, numbered=True)
            self._display.start()

    def _end(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _share(self, trainer: pl.Trainer, module: pl.LightningModule) -> float | None:
        """Which share of the run is done, by the limit that it reaches first."""
        shares = []
        if (batches := self._batches(trainer, module)) is not None:
            shares.append(batches[0] / max(1, batches[1]))
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
                taken = callback.time_elapsed()
                shares.append(taken / max(1e-9, taken + left))
        return max(shares, default=None)

    @staticmethod
    def _batches(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[int, int] | None:
        """How many batches are done and how many there are in all; None if the run has no last epoch.

        Under dynamic sampling not every batch brings a step; a resumed run may have batches of another size.
        """
        if trainer.max_epochs is None or trainer.max_epochs < 0 or trainer.num_training_batches == float("inf"):
            return None
        each = int(trainer.num_training_batches)
        return trainer.current_epoch * each + progress_in_epoch(trainer), trainer.max_epochs * each


def _total(batches: Any) -> int:
    """The batches of all loaders together."""
    return int(sum(batches)) if isinstance(batches, list) else int(batches)


def _values(trainer: pl.Trainer, names: dict[str, str]) -> str:
    """The newest values under their short names."""
    logged = trainer.progress_bar_metrics
    return ", ".join(f"{short} {float(logged[name]):.3g}" for name, short in names.items() if name in logged)
