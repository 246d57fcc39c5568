"""The one interface by which training writes down what it measures; every logger of the run gets everything.

Every value carries the number of optimizer steps that had been taken when it was measured: the first batch of a run is
step 0, and a validation after 100 steps is step 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from avrt.training.checkpoints import is_trial
from avrt.training.lightning_internals import progress
from avrt.training.run_log.files import FileWriter
from avrt.training.run_log.mlflow import MLFlowWriter
from avrt.training.run_log.tensorboard import TensorBoardWriter
from avrt.training.run_log.weights_and_biases import WandbWriter
from avrt.training.run_log.writer import Option, Table, Writer

ADAPTERS: tuple[tuple[type[Logger], Callable[[Any], Writer]], ...] = (
    (TensorBoardLogger, TensorBoardWriter),
    (WandbLogger, WandbWriter),
    (MLFlowLogger, MLFlowWriter),
    (CSVLogger, FileWriter),
)
SHEET_COLUMNS = 4
SHEET_FRAMES = 16


class RunLog:
    """Writes to all loggers of a trainer; only the first process does.

    Args:
        trainer: Whose loggers, and whose `log_every_n_steps`.

    Attributes:
        step: The step at which things are written: optimizer steps taken when they were measured.
        is_due: Whether scalars and histograms of the batch at hand are written; the same on every rank.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self._loggers = trainer.loggers if trainer.is_global_zero and not is_trial(trainer) else []
        self._writers: list[Writer] = []
        self._others: list[Logger] = []
        for logger in self._loggers:
            adapter = next((adapter for kind, adapter in ADAPTERS if isinstance(logger, kind)), None)
            if adapter is None:
                self._others.append(logger)
            else:
                self._writers.append(adapter(logger))
        if self._others:
            rank_zero_warn(
                f"{' and '.join(type(logger).__name__ for logger in self._others)} get scalars and options alone: no "
                f"tables, pictures, sound or histograms ({', '.join(kind.__name__ for kind, _ in ADAPTERS)} do)"
            )
        self._waiting: dict[str, float] = {}
        self.step = 0
        self.is_due = False

    def begin_batch(self) -> None:
        """A training batch begins: what is written from now on was measured at its step."""
        every: int = self._trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.step = self._trainer.global_step
        self.is_due = bool(every and self._trainer.loggers) and (progress(self._trainer)[1] + 1) % every == 0

    def begin_validation(self) -> None:
        """A validation begins; what it measures is always written, but for Lightning's trial run before training."""
        self.step = self._trainer.global_step
        self.is_due = not self._trainer.sanity_checking

    def scalars(self, values: Mapping[str, float]) -> None:
        """Keep scalars, if they are due, so that all of a step become one record; `flush` writes it."""
        if self.is_due:
            self._waiting.update(values)

    def flush(self) -> None:
        """Write the scalars that wait."""
        if self._waiting:
            values = {**self._waiting, "epoch": self._trainer.current_epoch}
            for logger in self._loggers:
                logger.log_metrics(values, self.step)
                logger.save()
        self._waiting = {}

    def options(self, options: Mapping[str, Option]) -> None:
        """Write the run's options."""
        for writer in self._writers:
            writer.options(options)
        for logger in self._others:
            logger.log_hyperparams(dict(options))

    def table(self, tag: str, table: Table) -> None:
        """Write a table."""
        for writer in self._writers:
            writer.table(tag, table, self.step)

    def pictures(self, tag: str, pictures: Tensor) -> None:
        """Write (F, 3, H, W) uint8 pictures as one, in rows of four."""
        if self._writers:
            sheet = contact_sheet(pictures)
            for writer in self._writers:
                writer.picture(tag, sheet, self.step)

    def sound(self, tag: str, sound: Tensor) -> None:
        """Write (S,) float32 mono sound at 16 kHz."""
        for writer in self._writers:
            writer.sound(tag, sound, self.step)

    def histogram(self, tag: str, values: Sequence[float]) -> None:
        """Write how some values are distributed."""
        if values:
            for writer in self._writers:
                writer.histogram(tag, values, self.step)


def contact_sheet(pictures: Tensor) -> Tensor:
    """Pictures (F, 3, H, W) side by side as (3, H', W'), in rows of four; of more than 16 evenly chosen ones."""
    if len(pictures) > SHEET_FRAMES:
        pictures = pictures[torch.linspace(0, len(pictures) - 1, SHEET_FRAMES).round().long()]
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    _, channels, height, width = pictures.shape
    sheet = pictures.new_zeros(rows * columns, channels, height, width)
    sheet[: len(pictures)] = pictures
    sheet = sheet.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return sheet.reshape(channels, rows * height, columns * width)
