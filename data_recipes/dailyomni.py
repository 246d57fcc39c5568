"""Daily-Omni: questions about 30 s and 60 s videos with sound, from the benchmark's own layout.

`root` holds `qa.json` and `Videos/<video_id>/<video_id>_video.mp4`.

Homepage: https://lliar-liar.github.io/Daily-Omni/ (evaluation: github.com/Lliar-liar/Daily-Omni).
Paper: Daily-Omni: Towards Audio-Visual Reasoning with Temporal Alignment across Modalities, arXiv 2505.17862.
Licence: GPL-3.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import OneFileRecipe


@dataclass
class DailyOmni(OneFileRecipe):
    """The Daily-Omni benchmark (1,197 questions over 684 videos when complete).

    The whole sound is taken, as in its authors' script, and 8 frames, as in AVRT.
    """

    name: ClassVar[str] = "dailyomni"
    by: ClassVar[str] = "video_id"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "qa.json"

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video with sound."""
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
        video = media_file(
            root, f"Videos/{video_id}/{video_id}_video.mp4", name, "video_id", media_root=self.media_root
        )
        return SourceItem(sample, {Modality.VIDEO: video}, labels.notes)


recipe = DailyOmni
