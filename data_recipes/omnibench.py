"""OmniBench: questions about a picture and a sound, from the benchmark's own layout.

`root` holds the annotation file, and `mm_data/image` and `mm_data/audio` with the files that it names in `image_path`
and `audio_path`.

Homepage: https://m-a-p.ai/OmniBench (evaluation: github.com/multimodal-art-projection/OmniBench).
Paper: Li et al., OmniBench: Towards The Future of Universal Omni-Language Models, arXiv 2409.15272.
Licence: see its card.
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
class OmniBench(OneFileRecipe):
    """The OmniBench benchmark (1,142 questions when complete)."""

    annotation: str = "dataset/batch-5_1142_20240817.jsonl"
    name: ClassVar[str] = "omnibench"
    by: ClassVar[str] = "image_path"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a picture and a sound."""
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
                # for ablations that replace a sense by text; no prompt holds them otherwise
                "image_content": row.get("image content"),
                "audio_content": row.get("audio content"),
            },
        )
        picture = media_file(
            root, row["image_path"], name, "image_path", media_root=self.media_root, below="mm_data/image"
        )
        sound = media_file(
            root, row["audio_path"], name, "audio_path", media_root=self.media_root, below="mm_data/audio"
        )
        return SourceItem(sample, {Modality.IMAGE: picture, Modality.AUDIO: sound}, labels.notes)


recipe = OmniBench
