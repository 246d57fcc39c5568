"""AVQA-R1-6K, the part of OmniInstruct on which EchoInk-R1 is trained: questions about a picture and a sound.

`root` holds the annotation files and the media files that they name in `path`.

Homepage: https://github.com/HarryHsing/EchoInk.
Paper: EchoInk-R1: Exploring Audio-Visual Reasoning in Multimodal LLMs via Reinforcement Learning; OmniInstruct is from
Li et al., OmniBench: Towards The Future of Universal Omni-Language Models, arXiv 2409.15272.
Licence: see its card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, row_id
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import TableRecipe
from avrt.errors import BadSampleError
from avrt.messages import short

_SOLUTION = re.compile(r"\s*<answer>.*</answer>\s*", re.DOTALL)


@dataclass
class AVQAR1(TableRecipe):
    """AVQA-R1-6K (4,490 training and 1,911 validation questions when complete).

    Attributes:
        split: Which part; the annotation file is `<split>.json`.
    """

    split: Literal["train", "valid"] = "train"

    by: ClassVar[str] = "problem_id"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=10.0)

    @property
    def prefix(self) -> str:
        """The recipe's name and the split."""
        return f"avqa_r1-{self.split}"

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The annotation file of the split."""
        return (root / f"{self.split}.json",)

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a picture and a sound."""
        solution = row.get("solution")
        if solution is not None and not (isinstance(solution, str) and _SOLUTION.fullmatch(solution)):
            raise BadSampleError(f"field 'solution' is {short(solution)}, not <answer>...</answer>", where=name)
        labels = read_labels(row["options"], solution, where=name, fields=("options", "solution"), kind=Answers.LETTER)
        sample = Sample(
            id=f"{self.prefix}-{row_id(row, 'problem_id', name)}",
            question=row["problem"],
            choices=labels.choices,
            answer=labels.answer,
            relation=Relation.BOTH,
            question_type=row["problem_type"],
            metadata={"source": row.get("data_source")},
        )
        files = {
            Modality.IMAGE: media_file(root, row["path"]["image"], name, "path.image", media_root=self.media_root),
            Modality.AUDIO: media_file(root, row["path"]["audio"], name, "path.audio", media_root=self.media_root),
        }
        return SourceItem(sample, files, labels.notes)


recipe = AVQAR1
