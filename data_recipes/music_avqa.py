"""MUSIC-AVQA: questions about who plays what, where and when, over 60 s videos of music.

`root` holds `avqa-train.json`, `avqa-val.json` and `avqa-test.json` as the authors publish them, and the videos as
`<clips>/<video_id>.mp4`.

Homepage: https://gewu-lab.github.io/MUSIC-AVQA/.
Paper: Li et al., Learning to Answer Questions in Dynamic Audio-Visual Scenarios, CVPR 2022, arXiv 2203.14072.
Licence: see its homepage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotation_tables import read_rows
from avrt.data_recipes.annotations import Row, items, json_field, plain_name, row_id
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import FileRecipe
from avrt.errors import BadSampleError
from avrt.messages import short

_BLANK = re.compile(r"<\w+>")
_RELATIONS = {"Audio": Relation.AUDIO, "Visual": Relation.VISION, "Audio-Visual": Relation.BOTH}
_YES_NO = ("no", "yes")


@dataclass
class MusicAVQA(FileRecipe):
    """MUSIC-AVQA (31,927 training, 4,568 validation and 9,129 test questions when complete).

    Its questions are open. Here they get choices: the right answer, and other answers to the same question in this
    file, drawn with the question's number as seed; yes and no if the answer is one of these. Questions that the authors
    marked as deleted are left out.

    Attributes:
        split: Which part.
        clips: Folder of the videos, below the root.
        choices: Most choices that a question gets.
    """

    split: Literal["train", "val", "test"] = "train"
    clips: str = "videos"
    choices: int = 4
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The annotation file of the split."""
        return (root / f"avqa-{self.split}.json",)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every row as a question or an error."""
        rows = read_rows(*self.annotations(root))
        answers = _answers(rows)

        def convert(name: str, row: Row) -> SourceItem:
            video, number = plain_name(row["video_id"], name, "video_id"), row_id(row, "question_id", name)
            if not number.isdecimal() or not number.isascii():
                raise BadSampleError(f"field 'question_id' is {short(number)}, needs a number", where=name)
            if row.get("question_deleted"):
                raise BadSampleError("its authors marked it as deleted", where=name)
            right, about = row["anser"], json_field(row, "type", name)  # the data set spells the field so
            if not isinstance(right, str) or not right.strip():
                raise BadSampleError(f"field 'anser' is {short(right)}, needs a text", where=name)
            if not isinstance(about, list) or len(about) != 2 or not all(isinstance(part, str) for part in about):
                raise BadSampleError(f"field 'type' is {short(about)}, needs a sense and a kind", where=name)
            sense, kind = about
            choices = self._choices(row["question_content"], right, int(number), answers)
            labels = read_labels(choices, right, where=name, fields=("choices", "anser"), kind=Answers.TEXT)
            sample = Sample(
                id=f"music_avqa-{self.split}-{number}",
                question=_filled(row["question_content"], json_field(row, "templ_values", name), name),
                choices=labels.choices,
                answer=labels.answer,
                relation=_RELATIONS.get(sense),
                question_type=kind,
                metadata={"video_id": video, "sense": sense},
            )
            path = media_file(root, f"{self.clips}/{video}.mp4", name, "video_id", media_root=self.media_root)
            return SourceItem(sample, {Modality.VIDEO: path}, labels.notes)

        yield from items(rows, f"music_avqa-{self.split}", convert, by="video_id")

    def _choices(self, template: str, right: str, number: int, answers: Mapping[str, set[str]]) -> tuple[str, ...]:
        """The choices of a question, in a random order."""
        if right in _YES_NO:
            return _YES_NO
        rng = np.random.default_rng(number)
        others = sorted(answers[template] - {right, *_YES_NO})
        picked = [others[i] for i in rng.permutation(len(others))[: self.choices - 1]]
        return tuple(str(choice) for choice in rng.permutation([right, *picked]))


def _answers(rows: list[Any]) -> dict[str, set[str]]:
    """All answers to each question, before its blanks are filled in."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row, Mapping) and isinstance(row.get("anser"), str):
            answers.setdefault(str(row.get("question_content")), set()).add(row["anser"])
    return answers


def _filled(template: str, values: Any, name: str) -> str:
    """A question with its blanks filled in."""
    if not isinstance(values, list):
        raise BadSampleError(f"field 'templ_values' is {short(values)}, needs a list", where=name)
    blanks = _BLANK.findall(template)
    if len(blanks) != len(values):
        raise BadSampleError(f"its question has {len(blanks)} blanks and {len(values)} values for them", where=name)
    rest = iter(values)
    return _BLANK.sub(lambda _: str(next(rest)), template)


recipe = MusicAVQA
