"""MMAR: questions about sound alone, with 2 to 6 choices, from the benchmark's own layout.

`root` holds `MMAR-meta.jsonl` and the sounds that its `audio_path` names, such as `audio/<id>.wav`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError
from data_recipes.annotations import Row, items, media_file, read_rows
from data_recipes.labels import Answers, read_labels
from data_recipes.recipe import OneFileRecipe


@dataclass
class MMAR(OneFileRecipe):
    """The MMAR benchmark (1,000 questions when complete).

    Four of the released rows have an empty choice at the end, which is no choice and is left out.
    """

    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "MMAR-meta.jsonl"

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            labels = read_labels(row["choices"], row.get("answer"), where=name, kind=Answers.TEXT)
            sample = Sample(
                id=name,
                question=row["question"],
                choices=labels.choices,
                answer=labels.answer,
                relation=Relation.SOUND,
                question_type=row["category"],
                metadata={
                    "mmar_id": row["id"],
                    "modality": row.get("modality"),
                    "sub_category": row.get("sub-category"),
                    "language": row.get("language"),
                },
            )
            heard = media_file(root, row["audio_path"], name, "audio_path")
            return SourceItem(sample, {Modality.AUDIO: heard}, labels.notes)

        yield from items(read_rows(*self.annotations(root)), "mmar", convert, by="audio_path")


recipe = MMAR
