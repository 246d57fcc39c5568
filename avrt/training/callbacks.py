"""What happens beside training: sampled groups shown in TensorBoard, results printed, unreadable samples reported."""

from __future__ import annotations

import html
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from rich.table import Table

from avrt.algorithms.groups import Rollout
from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import SAMPLE_RATE
from avrt.data.sample import LETTERS
from avrt.distributed import all_reduce_sum
from avrt.errors import NothingUsableError
from avrt.text import clean
from avrt.training.checkpoints import is_trial
from avrt.training.connect import data_of
from avrt.training.grpo_module import GRPOModule


class ShowRollouts(pl.Callback):
    """Write sampled completions with their rewards, frames and sound to TensorBoard, whichever of the loggers that is.

    Args:
        every_n_steps: How often.
        questions: How many questions of the batch are shown, each with its whole group.
    """

    def __init__(self, every_n_steps: int = 50, questions: int = 2) -> None:
        self.every_n_steps = every_n_steps
        self.questions = questions

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if there are rollouts and nowhere to show them."""
        others = [type(logger).__name__ for logger in trainer.loggers]
        if others and _board_logger(trainer) is None and isinstance(pl_module, GRPOModule) and not is_trial(trainer):
            rank_zero_warn(
                f"{' and '.join(others)} cannot hold sampled completions, so none are shown: add "
                "lightning.pytorch.loggers.TensorBoardLogger to trainer.logger"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: OmniBatch, batch_idx: int
    ) -> None:
        """Show the first groups of the batch."""
        logger = _board_logger(trainer)
        if not trainer.is_global_zero or logger is None or batch_idx % self.every_n_steps:
            return
        board = logger.experiment
        rollout: Rollout | None = (outputs or {}).get("rollout")
        if rollout is None:
            return
        step = trainer.global_step
        for row in range(min(self.questions, len(batch))):
            tag = f"rollouts/{row}"
            board.add_text(tag, group_table(rollout, row), step)
            clip = batch.clips[row]
            pictures = clip.pictures
            if pictures is not None:
                board.add_images(f"{tag}/frames", pictures, step)
            if clip.audio is not None:
                board.add_audio(f"{tag}/sound", clip.audio[None], step, sample_rate=SAMPLE_RATE)


def _board_logger(trainer: pl.Trainer) -> TensorBoardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


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
                pl_module.log(f"data/{source.label}", float(count))
        if data.dropout is not None:
            dropped = {f"data/dropped_{sense}": batch.dropped.count(sense) for sense in ("audio", "vision")}
            for name, total in all_reduce_sum(dropped, pl_module.device).items():
                pl_module.log(name, total)


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


def group_table(rollout: Rollout, row: int) -> str:
    """One question and its group of answers as a Markdown table."""
    sample, size = rollout.batch.samples[row], rollout.advantages.shape[1]
    names = list(rollout.rewards)
    choices = "; ".join(f"({letter}) {choice}" for letter, choice in zip(sample.letters, sample.choices, strict=True))
    lines = [
        f"**{_cell(sample.question)}** {_cell(choices)} — answer {sample.answer_letter}",
        "",
        "| " + " | ".join([*names, "advantage", "answer"]) + " |",
        "|" + "---|" * (len(names) + 2),
    ]
    for g in range(size):
        values = [f"{rollout.rewards[name][row, g]:.2f}" for name in names]
        cells = [*values, f"{rollout.advantages[row, g]:+.2f}", _cell(rollout.texts[row * size + g])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return "<br>".join(html.escape(clean(text)).replace("|", "&#124;").splitlines())
