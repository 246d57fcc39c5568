"""OmniBench: questions about a picture and a sound, from the benchmark's own layout.

`root` holds the annotation file, and below `mm_data/image` and `mm_data/audio` what its `image_path` and `audio_path`
name.
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
class OmniBench(OneFileRecipe):
    """The OmniBench benchmark (1,142 questions when complete)."""

    annotation: str = "dataset/batch-5_1142_20240817.jsonl"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            labels = read_labels(
                row["options"], row.get("answer"), where=name, fields=("options", "answer"), kind=Answers.TEXT
            )
            sample = Sample(
                id=name,
                question=row["question"],
                choices=labels.choices,
                answer=labels.answer,
                relation=Relation.BOTH,
                question_type=row["task type"],
                metadata={
                    "index": row["index"],
                    "audio_type": row.get("audio type"),
                    # for ablations that put text in the place of a sense; the student never sees them otherwise
                    "image_content": row.get("image content"),
                    "audio_content": row.get("audio content"),
                },
            )
            picture = media_file(root / "mm_data/image", row["image_path"], name, "image_path")
            sound = media_file(root / "mm_data/audio", row["audio_path"], name, "audio_path")
            return SourceItem(sample, {Modality.IMAGE: picture, Modality.AUDIO: sound}, labels.notes)

        yield from items(read_rows(*self.annotations(root)), "omnibench", convert, by="image_path")


recipe = OmniBench
