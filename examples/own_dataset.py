"""A data set of your own as a recipe: one row of a table becomes a question with the files that it is about.

    PYTHONPATH=examples avrt shards own_dataset.Birds --root FOLDER --out SHARDS

FOLDER holds `birds.csv` with the columns file, question, right, wrong, and the files themselves.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from avrt.data.sample import Modality, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError


@dataclass
class Birds(Recipe):
    """Which bird is it?

    Attributes:
        table: Name of the table below the root.
    """

    table: str = "birds.csv"

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The table, whose checksum is recorded with the shards."""
        return (root / self.table,)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """One item per row; a row without a right answer is left out by name."""
        with (root / self.table).open(newline="", encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                name = f"birds-{number:05d}"
                if not row["right"]:
                    yield BadSampleError("has no right answer", where=name)
                    continue
                sample = Sample(id=name, question=row["question"], choices=(row["right"], row["wrong"]), answer=0)
                file = root / row["file"]
                yield SourceItem(sample, {Modality.named(file.name): file})
