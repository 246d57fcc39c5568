"""What happens beside training: samples shown in the logs, results printed, unreadable samples reported."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from rich.table import Table

from avrt.algorithms.groups import Rollout
from avrt.data.inputs.batch import OmniBatch
from avrt.data.sample import LETTERS
from avrt.distributed import all_reduce_sum
from avrt.errors import NothingUsableError
from avrt.training.connect import data_of
from avrt.training.run_log.shown import rollout_table, show_clip, target_table


class ShowRollouts(pl.Callback):
    """Write single samples with their frames and sound to the loggers.

    In GRPO that is a question with its group of completions, in fine-tuning a question with its target. They are those
    of the first process.

    Args:
        every_n_steps: How often, in optimizer steps.
        questions: How many questions of the batch are shown.
    """

    def __init__(self, every_n_steps: int = 50, questions: int = 2) -> None:
        self.every_n_steps = every_n_steps
        self.questions = questions
        self._due = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the first batch of a run, also of one that goes on."""
        self._due = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: OmniBatch, *_: Any) -> None:
        """Show the first samples of the batch."""
        step = pl_module.run_log.step
        if not trainer.is_global_zero or not trainer.loggers or step < self._due:
            return
        outputs = outputs or {}
        rollout: Rollout | None = outputs.get("rollout")
        if "rollout" in outputs:
            if rollout is None:  # with rollouts ahead a run's first batch is only begun
                return
            batch = rollout.batch
        self._due = step + self.every_n_steps - step % self.every_n_steps
        valid = [row for row, counts in enumerate(batch.valid.tolist()) if counts]
        for number, row in enumerate(valid[: self.questions]):
            if rollout is not None:
                tag, table = f"rollouts/{number}", rollout_table(rollout, row)
            else:
                tag, table = f"samples/{number}", target_table(batch, row, pl_module.policy)
            pl_module.run_log.table(tag, table)
            show_clip(pl_module.run_log, tag, batch, row)


class CountSamples(pl.Callback):
    """Log how many samples of each source of a mixture were trained on so far, and how many lose a sense at each step.

    The former follows from the order alone, so that it is right after a resume too.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: OmniBatch, batch_idx: int) -> None:
        """Log the counts."""
        data = data_of(trainer)
        if len(data.sources) > 1:
            taken = data.train_plan.order.taken(batch.epoch, batch.consumed)
            for source, count in zip(data.sources, taken, strict=True):
                pl_module.log_values({f"data/{source.label}": float(count)})
        if data.dropout is not None:
            dropped = {f"data/dropped_{sense}": batch.dropped.count(sense) for sense in ("audio", "vision")}
            pl_module.log_values(all_reduce_sum(dropped, pl_module.device))


class ReportSkipped(pl.Callback):
    """Name samples that could not be read while training or evaluating, each once, and their number at the end.

    A run in which none could be used fails.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._used = 0

    def _note(self, batch: OmniBatch) -> None:
        self._used += int(batch.valid.sum())
        for name, why in batch.skipped.items():
            if name not in self._seen:
                self._seen[name] = why
                rank_zero_warn(f"sample left out: {why}", category=UserWarning)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: OmniBatch, batch_idx: int) -> None:
        """Note what the batch lacks."""
        self._note(batch)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: OmniBatch, *_: Any) -> None:
        """Note what the batch lacks."""
        self._note(batch)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: OmniBatch, *_: Any) -> None:
        """Note what the batch lacks."""
        self._note(batch)

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: OmniBatch, *_: Any) -> None:
        """Note what the batch lacks."""
        self._note(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fail where nothing could be trained on."""
        self._fail_if_nothing(trainer, "training")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fail where nothing could be validated on."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._fail_if_nothing(trainer, "validation")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fail where no question could be asked."""
        self._fail_if_nothing(trainer, "test")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fail where no question could be asked."""
        self._fail_if_nothing(trainer, "prediction")

    def _fail_if_nothing(self, trainer: pl.Trainer, what: str) -> None:
        counts = {"used": self._used, "left_out": len(self._seen)}
        sums = all_reduce_sum(counts, trainer.strategy.root_device)
        if sums["left_out"] and not sums["used"]:
            why = next(iter(self._seen.values()), "see the warnings above")
            raise NothingUsableError(
                f"none of the {sums['left_out']:.0f} {what} samples could be used, the first: {why}"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Say how many samples were left out in all."""
        if self._seen:
            rank_zero_info(f"{len(self._seen)} samples were left out because they could not be used")


class PrintAnswers(pl.Callback):
    """Print each answer of `avrt predict`."""

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: list[dict[str, Any]] | None, *_: Any
    ) -> None:
        """Print the batch's answers."""
        if not trainer.is_global_zero:
            return
        console = Console()
        for record in outputs or []:
            table = Table(title=record["id"], show_header=False, title_justify="left")
            table.add_row("question", record["question"])
            choices = zip(LETTERS, record["choices"], strict=False)
            table.add_row("choices", "  ".join(f"({letter}) {choice}" for letter, choice in choices))
            if record["error"] is None:
                table.add_row("response", record["responses"][0])
                table.add_row("choice", record["choice"] or "no choice can be read")
            else:
                table.add_row("error", record["error"])
            console.print(table, markup=False)
