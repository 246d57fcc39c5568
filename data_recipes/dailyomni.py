"""Daily-Omni: questions about 30 s and 60 s videos with sound, from the benchmark's own layout.

`root` holds `qa.json` and `Videos/<video_id>/<video_id>_video.mp4`.
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
from data_recipes.annotations import Row, items, media_file, plain_name, read_rows
from data_recipes.labels import Answers, read_labels
from data_recipes.recipe import OneFileRecipe


@dataclass
class DailyOmni(OneFileRecipe):
    """The Daily-Omni benchmark (1,197 questions over 684 videos when complete).

    Its videos are heard to the end, as its authors' script has it, and seen by 8 frames, as in AVRT.
    """

    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "qa.json"

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            video_id = plain_name(row["video_id"], name, "video_id")
            labels = read_labels(
                row["Choice"], row.get("Answer"), where=name, fields=("Choice", "Answer"), kind=Answers.LETTER
            )
            sample = Sample(
                id=name,
                question=row["Question"],
                choices=labels.choices,
                answer=labels.answer,
                relation=Relation.BOTH,
                question_type=row["Type"],
                metadata={
                    "video_id": video_id,
                    "duration": row.get("video_duration"),
                    "category": row.get("video_category"),
                    "content_parent_category": row.get("content_parent_category"),
                    "content_fine_category": row.get("content_fine_category"),
                },
            )
            video = media_file(root, f"Videos/{video_id}/{video_id}_video.mp4", name, "video_id")
            return SourceItem(sample, {Modality.VIDEO: video}, labels.notes)

        yield from items(read_rows(*self.annotations(root)), "dailyomni", convert, by="video_id")


recipe = DailyOmni
