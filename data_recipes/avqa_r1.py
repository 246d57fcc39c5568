"""AVQA-R1-6K, the part of OmniInstruct that EchoInk trains on: questions about a picture and a sound.

`root` holds the annotation files, and the media that their `path` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError
from avrt.messages import short
from data_recipes.annotations import Row, items, media_file, read_rows, row_id
from data_recipes.labels import Answers, read_labels
from data_recipes.recipe import Recipe

_SOLUTION = re.compile(r"\s*<answer>.*</answer>\s*", re.DOTALL)


@dataclass
class AVQAR1(Recipe):
    """AVQA-R1-6K (4,490 training and 1,911 validation questions when complete).

    Attributes:
        split: Which part; the annotation file is `<split>.json`.
    """

    split: Literal["train", "valid"] = "train"

    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=10.0)

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return (root / f"{self.split}.json",)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            solution = row.get("solution")
            if solution is not None and not (isinstance(solution, str) and _SOLUTION.fullmatch(solution)):
                raise BadSampleError(f"field 'solution' is {short(solution)}, not <answer>...</answer>", where=name)
            labels = read_labels(
                row["options"], solution, where=name, fields=("options", "solution"), kind=Answers.LETTER
            )
            sample = Sample(
                id=f"avqa_r1-{self.split}-{row_id(row, 'problem_id', name)}",
                question=row["problem"],
                choices=labels.choices,
                answer=labels.answer,
                relation=Relation.BOTH,
                question_type=row["problem_type"],
                metadata={"source": row.get("data_source")},
            )
            files = {
                Modality.IMAGE: media_file(root, row["path"]["image"], name, "path.image"),
                Modality.AUDIO: media_file(root, row["path"]["audio"], name, "path.audio"),
            }
            return SourceItem(sample, files, labels.notes)

        yield from items(read_rows(*self.annotations(root)), f"avqa_r1-{self.split}", convert, by="problem_id")


recipe = AVQAR1
