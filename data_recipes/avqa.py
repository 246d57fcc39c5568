"""AVQA: four-way questions about 10 s VGG-Sound clips, train and validation part.

`root` holds `train_qa.json` and `val_qa.json`, and the clips as `<clips>/<video_name>.mp4`.

Homepage: https://mn.cs.tsinghua.edu.cn/avqa.
Paper: Yang et al., AVQA: A Dataset for Audio-Visual Question Answering on Videos, ACM Multimedia 2022.
Licence: see its homepage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_name, row_id
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import TableRecipe

_RELATIONS = {"Both": Relation.BOTH, "Sound": Relation.AUDIO, "View": Relation.VISION}


@dataclass
class AVQA(TableRecipe):
    """AVQA (40,127 training and 17,208 validation questions when complete).

    A choice that is null in the annotation is left out, and later choices move up. A question is left out if its right
    choice is null, or if fewer than two choices remain.

    Attributes:
        split: Which part.
        clips: Folder of the clips, below the root.
    """

    split: Literal["train", "val"] = "train"
    clips: str = "videos"

    by: ClassVar[str] = "video_name"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=10.0)

    @property
    def prefix(self) -> str:
        """The recipe's name and the split."""
        return f"avqa-{self.split}"

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The annotation file of the split."""
        return (root / f"{self.split}_qa.json",)

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a clip."""
        video = plain_name(row["video_name"], name, "video_name")
        fields = ("multi_choice", "answer")
        labels = read_labels(row["multi_choice"], row.get("answer"), where=name, fields=fields, kind=Answers.INDEX)
        relation = row["question_relation"]
        sample = Sample(
            id=f"{self.prefix}-{row_id(row, 'id', name)}",
            question=row["question_text"],
            choices=labels.choices,
            answer=labels.answer,
            relation=_RELATIONS.get(relation) if isinstance(relation, str) else None,
            question_type=row["question_type"],
            metadata={"video_name": video, "video_id": row.get("video_id")},
        )
        path = media_file(root, f"{self.clips}/{video}.mp4", name, "video_name", media_root=self.media_root)
        return SourceItem(sample, {Modality.VIDEO: path}, labels.notes)


recipe = AVQA
