"""MLflow: tables, pictures and sound are artifacts; it has no histograms, so their quantiles are metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor

from avrt.data.media.clip import SAMPLE_RATE
from avrt.text import to_json
from avrt.training.run_log.writer import Option, Table, Writer, on_host

QUANTILES = (5, 25, 50, 75, 95)


class MLFlowWriter(Writer):
    """Writes into the run of an `MLFlowLogger`."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self._logger = logger

    def table(self, tag: str, table: Table, step: int) -> None:
        """An artifact in the form that MLflow shows as a table."""
        columns, rows = table.flat()
        text = to_json({"columns": columns, "data": rows})
        self._logger.experiment.log_text(self._run, text, f"{tag}/step-{step:06d}.json")

    def picture(self, tag: str, picture: Tensor, step: int) -> None:
        """An image with a step."""
        self._logger.experiment.log_image(self._run, on_host(picture), key=tag, step=step)

    def sound(self, tag: str, sound: Tensor, step: int) -> None:
        """An artifact."""
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"step-{step:06d}.wav"
            soundfile.write(path, sound.cpu().numpy(), SAMPLE_RATE)
            self._logger.experiment.log_artifact(self._run, str(path), tag)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Quantiles, as metrics `TAG/p05` to `TAG/p95`."""
        found = np.percentile(np.asarray(values), QUANTILES)
        names = [f"{tag}/p{quantile:02d}" for quantile in QUANTILES]
        self._logger.log_metrics(dict(zip(names, found.tolist(), strict=True)), step)

    def options(self, options: Mapping[str, Option]) -> None:
        """The run's parameters."""
        self._logger.log_hyperparams(dict(options))

    @property
    def _run(self) -> str:
        run = self._logger.run_id
        assert run is not None
        return run
