"""Weights & Biases: everything goes through the run's history, with Lightning's `trainer/global_step` as the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from avrt.data.media.clip import SAMPLE_RATE
from avrt.training.run_log.writer import Option, Table, Writer, on_host


class WandbWriter(Writer):
    """Writes into the run of a `WandbLogger`."""

    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def table(self, tag: str, table: Table, step: int) -> None:
        """A `wandb.Table`."""
        columns, rows = table.flat()
        self._logger.log_table(tag, columns=columns, data=rows, step=step)

    def picture(self, tag: str, picture: Tensor, step: int) -> None:
        """A `wandb.Image`."""
        self._logger.log_image(tag, [on_host(picture)], step=step)

    def sound(self, tag: str, sound: Tensor, step: int) -> None:
        """A `wandb.Audio`."""
        self._logger.log_audio(tag, [sound.cpu().numpy()], step=step, sample_rate=[SAMPLE_RATE])

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """A `wandb.Histogram`."""
        import wandb

        counts = np.histogram(np.asarray(values), bins=32)
        self._logger.log_metrics({tag: wandb.Histogram(np_histogram=counts)}, step)  # type: ignore[dict-item]

    def options(self, options: Mapping[str, Option]) -> None:
        """The run's config."""
        self._logger.log_hyperparams(dict(options))
