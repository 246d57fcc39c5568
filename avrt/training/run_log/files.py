"""CSV: tables, pictures, sound and histograms are files in the folder `media` beside `metrics.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor

from avrt.data.media.clip import SAMPLE_RATE
from avrt.text import clean
from avrt.training.run_log.writer import Cell, Option, Table, Writer, on_host


class FileWriter(Writer):
    """Writes beside the `metrics.csv` of a `CSVLogger`, which replaces what an earlier run has left there."""

    def __init__(self, logger: CSVLogger) -> None:
        self._logger = logger
        self._folder = Path(logger.log_dir) / "media"
        self._begun: set[Path] = set()

    def table(self, tag: str, table: Table, step: int) -> None:
        """Rows of `TAG.csv`, with the step before them."""
        columns, rows = table.flat()
        self._append(tag, columns, rows, step)

    def picture(self, tag: str, picture: Tensor, step: int) -> None:
        """`TAG/step-000000.png`."""
        Image.fromarray(on_host(picture)).save(self._file(tag, step, "png"))

    def sound(self, tag: str, sound: Tensor, step: int) -> None:
        """`TAG/step-000000.wav`."""
        soundfile.write(self._file(tag, step, "wav"), sound.cpu().numpy(), SAMPLE_RATE)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Rows of `TAG.csv`: the step and one value each."""
        self._append(tag, ["value"], [[value] for value in values], step)

    def options(self, options: Mapping[str, Option]) -> None:
        """`hparams.yaml`."""
        self._logger.log_hyperparams(dict(options))

    def _file(self, tag: str, step: int, kind: str) -> Path:
        path = self._folder / tag / f"step-{step:06d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _append(self, tag: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        path = self._folder / f"{tag}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        begins = path not in self._begun
        self._begun.add(path)
        with path.open("w" if begins else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if begins:
                writer.writerow(["step", *columns])
            writer.writerows([step, *(clean(c) if isinstance(c, str) else c for c in row)] for row in rows)
