"""TensorBoard: tables are Markdown texts, options fill the HPARAMS tab."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from avrt.data.media.clip import SAMPLE_RATE
from avrt.text import clean
from avrt.training.run_log.writer import Cell, Option, Table, Writer


class TensorBoardWriter(Writer):
    """Writes into the event file of a `TensorBoardLogger`."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self._logger = logger

    def table(self, tag: str, table: Table, step: int) -> None:
        """A text."""
        self._logger.experiment.add_text(tag, markdown(table), step)

    def picture(self, tag: str, picture: Tensor, step: int) -> None:
        """An image."""
        self._logger.experiment.add_image(tag, picture, step)

    def sound(self, tag: str, sound: Tensor, step: int) -> None:
        """An audio clip."""
        self._logger.experiment.add_audio(tag, sound[None], step, sample_rate=SAMPLE_RATE)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """A histogram."""
        self._logger.experiment.add_histogram(tag, torch.tensor(values), step)

    def options(self, options: Mapping[str, Option]) -> None:
        """A session of the HPARAMS tab, which shows the newest values of the run's scalars beside them."""
        from torch.utils.tensorboard.summary import hparams

        self._logger.hparams.update(options)  # for its own hparams.yaml
        # The logger's own method would write a value of each metric before any was measured. What is called
        # experiment would have the tab show this run's options alone, not those in which it differs from others.
        _, session, end = hparams(dict(options), {})  # type: ignore[no-untyped-call]
        for summary in (session, end):
            self._logger.experiment.file_writer.add_summary(summary)


def markdown(table: Table) -> str:
    """A table as Markdown: what it is about, its numbers, then each long text in a block of its own.

    TensorBoard breaks the words of a column that stands beside a wide one, so that texts are kept out of the table.
    """
    *columns, texts = (_unbroken(name) for name in table.columns)
    lines = [
        "<br>".join(f"**{_escaped(name)}:** {_escaped(text)}" for name, text in table.about.items()),
        "",
        f"| {' | '.join([texts, *columns])} |",
        "|" + "---|" * len(table.columns),
    ]
    for number, row in enumerate(table.rows, 1):
        lines.append(f"| {' | '.join([str(number), *(_unbroken(_number(cell)) for cell in row[:-1])])} |")
    for number, row in enumerate(table.rows, 1):
        lines += ["", f"**{texts} {number}**", "", f"> {_paragraph(str(row[-1]))}"]
    return "\n".join(lines)


def _paragraph(text: str) -> str:
    return "<br>".join(_escaped(line) for line in clean(text).splitlines()) or "(empty)"


def _number(cell: Cell) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _unbroken(text: str) -> str:
    return _escaped(text).replace(" ", "&nbsp;").replace("-", "&#8209;")


def _escaped(text: str) -> str:
    """Text that neither Markdown nor HTML reads anything in."""
    escaped = html.escape(" ".join(clean(text).split()))
    return "".join(f"&#{ord(c)};" if c in "|*_`[]\\~" else c for c in escaped)
