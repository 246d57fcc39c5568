"""MMAU test-mini: questions about sound, music and speech, from the benchmark's own layout.

`root` holds `mmau-test-mini.json` and the sounds that it names in `audio_id`, such as `test-mini-audios/<id>.wav`. The
hub's Parquet table (`--annotation test_mini.parquet`) is an alternative, with the same sound files; letters before its
choices, `(A) Man`, are removed.

Homepage: https://sakshi113.github.io/mmau_homepage/ (evaluation: github.com/Sakshi113/MMAU).
Paper: Sakshi et al., MMAU: A Massive Multi-Task Audio Understanding and Reasoning Benchmark, arXiv 2410.19168.
Licence: Apache-2.0 (the repository with its questions).

A row:

    {"id": "3fe64f3d-282c-4bc8-a753-68f8f6c35652",
     "audio_id": "./test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav",
     "question": "Based on the given audio, identify the source of the speaking voice.",
     "choices": ["Man", "Woman", "Child", "Robot"], "answer": "Man", "dataset": "AudioSet", "task": "sound",
     "split": "test-mini", "category": "Reasoning", "sub-category": "Acoustic Source Inference", "difficulty": "medium"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, json_field, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import OneFileRecipe


@dataclass
class MMAU(OneFileRecipe):
    """The MMAU benchmark, test-mini (1,000 questions when complete). The full test part has no answers.

    27 of the released rows repeat a choice, which is kept once.
    """

    name: ClassVar[str] = "mmau"
    by: ClassVar[str] = "audio_id"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "mmau-test-mini.json"

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a sound."""
        row = _as_released(row, name)
        labels = read_labels(row["choices"], row.get("answer"), where=name, kind=Answers.TEXT)
        sample = Sample(
            id=name,
            question=row["question"],
            choices=labels.choices,
            answer=labels.answer,
            relation=Relation.AUDIO,
            question_type=row["task"],
            metadata={
                "mmau_id": row["id"],
                "category": row.get("category"),
                "sub_category": row.get("sub-category"),
                # the key `difficulty` is reserved for the teachers' labels
                "mmau_difficulty": row.get("difficulty"),
                "dataset": row.get("dataset"),
            },
        )
        heard = media_file(root, row["audio_id"], name, "audio_id", media_root=self.media_root)
        return SourceItem(sample, {Modality.AUDIO: heard}, labels.notes)


def _as_released(row: Row, name: str) -> Row:
    """A row of the hub's table with the field names of the released file."""
    if "other_attributes" not in row:
        return row
    attributes = row["other_attributes"]
    if isinstance(attributes, str):
        attributes = json_field(row, "other_attributes", name)
    sound = f"test-mini-audios/{plain_name(attributes['id'], name, 'other_attributes.id')}.wav"
    return {"audio_id": sound, "question": row["instruction"], **row, **attributes}


recipe = MMAU
