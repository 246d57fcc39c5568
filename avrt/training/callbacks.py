"""What happens beside training: sampled groups shown in TensorBoard, results printed, unreadable samples reported."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from rich.table import Table

from avrt.data.inputs import OmniBatch
from avrt.data.media import SAMPLE_RATE, Clip
from avrt.text import clean
from avrt.training.grpo import Rollout


class RunCheckpoint(ModelCheckpoint):
    """Keep the newest checkpoint of a run under `<default_root_dir>/checkpoints`, also the one at its end.

    `--ckpt_path last` finds it. A checkpoint counts only when it is complete, and the one before is deleted after that,
    so that a run killed at any moment can be resumed.

    Args:
        every_n_train_steps: How often, in optimizer steps.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        super().__init__(
            filename="step-{step:06d}", auto_insert_metric_name=False, every_n_train_steps=every_n_train_steps
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Place the checkpoints inside the run's folder."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it was saved just now."""
        super().on_train_end(trainer, pl_module)
        if trainer.global_step != self._last_global_step_saved:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def _find_last_checkpoints(self, trainer: pl.Trainer) -> set[str]:
        """The complete checkpoints of the run; Lightning takes the newest for `last`."""
        folder = Path(trainer.default_root_dir) / "checkpoints"
        # DeepSpeed writes the file `latest` when everything else is on disk; other strategies write a single file.
        return {str(p) for p in folder.glob("step-*.ckpt") if p.is_file() or (p / "latest").is_file()}


class ShowRollouts(pl.Callback):
    """Write sampled answers with their rewards, frames and sound to TensorBoard.

    Args:
        every_n_steps: How often.
        questions: How many questions of the batch are shown, each with its whole group.
    """

    def __init__(self, every_n_steps: int = 50, questions: int = 2) -> None:
        self.every_n_steps = every_n_steps
        self.questions = questions

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: OmniBatch, batch_idx: int
    ) -> None:
        """Show the first groups of the batch."""
        board = trainer.logger.experiment if isinstance(trainer.logger, TensorBoardLogger) else None
        if not trainer.is_global_zero or board is None or batch_idx % self.every_n_steps:
            return
        rollout: Rollout | None = (outputs or {}).get("rollout")
        if rollout is None:
            return
        step = trainer.global_step
        for row in range(min(self.questions, len(batch))):
            tag = f"rollouts/{row}"
            board.add_text(tag, group_table(rollout, row), step)
            clip = batch.clips[row]
            pictures = _pictures(clip)
            if pictures is not None:
                board.add_images(f"{tag}/frames", pictures, step)
            if clip.audio is not None:
                board.add_audio(f"{tag}/sound", clip.audio[None], step, sample_rate=SAMPLE_RATE)


class CountSamples(pl.Callback):
    """Log how many samples of each source of a mixture were trained on so far, and how many lose a sense at each step.

    The former follows from the order alone, so that it is right after a resume too.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: OmniBatch, batch_idx: int
    ) -> None:
        """Log the counts."""
        data = pl_module.datamodule
        if len(data.sources) > 1:
            taken = data.train_plan.order.taken(batch.epoch, batch.position)
            for source, count in zip(data.sources, taken, strict=True):
                pl_module.log(f"data/{source.label}", float(count))
        if data.dropout is not None:
            lost = torch.tensor([batch.dropped.count("sound"), batch.dropped.count("sight")], device=pl_module.device)
            sound, sight = trainer.strategy.reduce(lost.double(), reduce_op="sum").tolist()
            pl_module.log("data/dropped_sound", sound)
            pl_module.log("data/dropped_sight", sight)


class ReportSkipped(pl.Callback):
    """Name samples that could not be read while training or evaluating, each once, and their number at the end."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def _note(self, batch: OmniBatch) -> None:
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

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Say how many samples were left out in all."""
        if self._seen:
            rank_zero_info(f"{len(self._seen)} samples were left out because they could not be used")


class PrintAnswers(pl.Callback):
    """Print each answer of `avrt predict`, and where all of them were written."""

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Print the batch's answers."""
        if not trainer.is_global_zero:
            return
        console = Console()
        for record in outputs or []:
            table = Table(title=record["id"], show_header=False, title_justify="left")
            table.add_row("question", record["question"])
            table.add_row("choices", "  ".join(f"({chr(65 + i)}) {c}" for i, c in enumerate(record["choices"])))
            table.add_row("response", record["response"])
            table.add_row("choice", record["choice"] or "none that can be read")
            console.print(table, markup=False)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say where the predictions are."""
        if trainer.is_global_zero:
            print(f"predictions: {pl_module.prediction_file}")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Say where the predictions are."""
        if trainer.is_global_zero:
            print(f"predictions: {pl_module.prediction_file}")


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


def _pictures(clip: Clip) -> torch.Tensor | None:
    if clip.frames is not None:
        return clip.frames
    return None if clip.image is None else clip.image[None]
