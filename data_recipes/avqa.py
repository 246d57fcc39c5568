"""AVQA: four-way questions about 10 s VGG-Sound clips, train and validation part.

`root` holds `train_qa.json` and `val_qa.json`, and the clips as `<clips>/<video_name>.mp4`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError
from data_recipes.annotations import Row, items, media_file, plain_name, read_rows, row_id
from data_recipes.labels import Answers, read_labels
from data_recipes.recipe import Recipe

_RELATIONS = {"Both": Relation.BOTH, "Sound": Relation.SOUND, "View": Relation.VIEW}


@dataclass
class AVQA(Recipe):
    """AVQA (40,127 training and 17,208 validation questions when complete).

    A choice that is null in the annotation is left out, and the others move up; a question whose right choice is null,
    or that keeps fewer than two, is left out.

    Attributes:
        split: Which part.
        clips: Folder of the clips, below the root.
    """

    split: Literal["train", "val"] = "train"
    clips: str = "videos"

    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=10.0)

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return (root / f"{self.split}_qa.json",)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            video = plain_name(row["video_name"], name, "video_name")
            fields = ("multi_choice", "answer")
            labels = read_labels(row["multi_choice"], row.get("answer"), where=name, fields=fields, kind=Answers.INDEX)
            relation = row["question_relation"]
            sample = Sample(
                id=f"avqa-{self.split}-{row_id(row, 'id', name)}",
                question=row["question_text"],
                choices=labels.choices,
                answer=labels.answer,
                relation=_RELATIONS.get(relation) if isinstance(relation, str) else None,
                question_type=row["question_type"],
                metadata={"video_name": video, "video_id": row.get("video_id")},
            )
            path = media_file(root, f"{self.clips}/{video}.mp4", name, "video_name")
            return SourceItem(sample, {Modality.VIDEO: path}, labels.notes)

        yield from items(read_rows(*self.annotations(root)), f"avqa-{self.split}", convert, by="video_name")


recipe = AVQA
