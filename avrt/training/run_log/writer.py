"""What a logger is given besides scalars: tables, pictures, sound, histograms and options; an adapter writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Cell = str | int | float
Option = str | int | float | bool


@dataclass(frozen=True)
class Table:
    """Rows about one thing, such as the completions of a question.

    Attributes:
        about: What holds for all rows: name -> text.
        columns: Names of the columns; the last one holds the long texts.
        rows: As many cells each.
    """

    about: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def flat(self) -> tuple[list[str], list[list[Cell]]]:
        """Columns and rows of a plain table: what holds for all rows stands in each of them."""
        about = list(self.about.values())
        return [*self.about, *self.columns], [[*about, *row] for row in self.rows]


class Writer(ABC):
    """Writes for one logger, in the first process alone. `step`: optimizer steps taken when it was measured."""

    @abstractmethod
    def table(self, tag: str, table: Table, step: int) -> None:
        """Write a table."""

    @abstractmethod
    def picture(self, tag: str, picture: Tensor, step: int) -> None:
        """Write a (3, H, W) uint8 picture."""

    @abstractmethod
    def sound(self, tag: str, sound: Tensor, step: int) -> None:
        """Write (S,) float32 mono sound at 16 kHz."""

    @abstractmethod
    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Write how some values are distributed; there is at least one."""

    @abstractmethod
    def options(self, options: Mapping[str, Option]) -> None:
        """Write the run's options, once."""


def on_host(picture: Tensor) -> np.ndarray:
    """A (3, H, W) picture as the (H, W, 3) array that most libraries take."""
    return np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())
