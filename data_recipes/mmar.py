"""MMAR: questions about sound alone, with 2 to 6 choices, from the benchmark's own layout.

`root` holds `MMAR-meta.jsonl` and the sounds that it names in `audio_path`, such as `audio/<id>.wav`.

Homepage: https://github.com/ddlBoJack/MMAR (evaluation: there too).
Paper: MMAR: A Challenging Benchmark for Deep Reasoning in Speech, Audio, Music, and Their Mix, arXiv 2505.13032.
Licence: CC BY-NC 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import OneFileRecipe


@dataclass
class MMAR(OneFileRecipe):
    """The MMAR benchmark (1,000 questions when complete).

    Four of the released rows end with an empty choice, which is left out.
    """

    name: ClassVar[str] = "mmar"
    by: ClassVar[str] = "audio_path"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "MMAR-meta.jsonl"

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a sound."""
        labels = read_labels(row["choices"], row.get("answer"), where=name, kind=Answers.TEXT)
        sample = Sample(
            id=name,
            question=row["question"],
            choices=labels.choices,
            answer=labels.answer,
            relation=Relation.AUDIO,
            question_type=row["category"],
            metadata={
                "mmar_id": row["id"],
                "modality": row.get("modality"),
                "sub_category": row.get("sub-category"),
                "language": row.get("language"),
            },
        )
        heard = media_file(root, row["audio_path"], name, "audio_path", media_root=self.media_root)
        return SourceItem(sample, {Modality.AUDIO: heard}, labels.notes)


recipe = MMAR
