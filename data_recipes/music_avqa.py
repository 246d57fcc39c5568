"""MUSIC-AVQA: questions about who plays what, where and when, over 60 s videos of music.

`root` holds `avqa-train.json`, `avqa-val.json` and `avqa-test.json` as the authors publish them, and the videos as
`<clips>/<video_id>.mp4`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avrt.data.conversion import SourceItem
from avrt.data.sample import Modality, Relation, Sample
from avrt.errors import BadSampleError
from data_recipes.annotations import Row, items, media_file, plain_name, read_rows
from data_recipes.recipe import Recipe

_BLANK = re.compile(r"<\w+>")
_RELATIONS = {"Audio": Relation.SOUND, "Visual": Relation.VIEW, "Audio-Visual": Relation.BOTH}
_YES_NO = ("no", "yes")


@dataclass
class MusicAVQA(Recipe):
    """MUSIC-AVQA (31,927 training, 4,568 validation and 9,129 test questions when complete).

    The data set asks openly. Its answers become choices here: the right one beside others that the same question has in
    this file, drawn from a seed of the question's number; yes and no where it is one of them. Questions that the
    authors marked as deleted are left out.

    Attributes:
        split: Which part.
        clips: Folder of the videos, below the root.
        choices: How many choices a question gets at most.
    """

    split: Literal["train", "val", "test"] = "train"
    clips: str = "videos"
    choices: int = 4

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return (root / f"avqa-{self.split}.json",)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""
        rows = read_rows(*self.annotations(root))
        answers = _answers(rows)

        def convert(name: str, row: Row) -> SourceItem:
            video, number = plain_name(row["video_id"], name, "video_id"), int(row["question_id"])
            if row.get("question_deleted"):
                raise BadSampleError("its authors deleted it", where=name)
            right, (sense, kind) = row["anser"], json.loads(row["type"])  # the field is really spelled so
            choices = self._choices(row["question_content"], right, number, answers)
            sample = Sample(
                id=f"music_avqa-{self.split}-{number}",
                question=_filled(row["question_content"], json.loads(row["templ_values"]), name),
                choices=choices,
                answer=choices.index(right),
                relation=_RELATIONS.get(sense),
                question_type=kind,
                metadata={"video_id": video, "sense": sense},
            )
            return SourceItem(sample, {Modality.VIDEO: media_file(root, f"{self.clips}/{video}.mp4", name, "video_id")})

        yield from items(rows, f"music_avqa-{self.split}", convert, by="video_id")

    def _choices(self, template: str, right: str, number: int, answers: Mapping[str, set[str]]) -> tuple[str, ...]:
        if right in _YES_NO:
            return _YES_NO
        rng = np.random.default_rng(number)
        others = sorted(answers[template] - {right, *_YES_NO})
        picked = [others[i] for i in rng.permutation(len(others))[: self.choices - 1]]
        return tuple(str(choice) for choice in rng.permutation([right, *picked]))


def _answers(rows: list[Any]) -> dict[str, set[str]]:
    """The answers that each question has, its blanks not filled in."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row, Mapping) and isinstance(row.get("anser"), str):
            answers.setdefault(str(row.get("question_content")), set()).add(row["anser"])
    return answers


def _filled(template: str, values: list[str], name: str) -> str:
    blanks = _BLANK.findall(template)
    if len(blanks) != len(values):
        raise BadSampleError(f"its question has {len(blanks)} blanks and {len(values)} values for them", where=name)
    rest = iter(values)
    return _BLANK.sub(lambda _: str(next(rest)), template)


recipe = MusicAVQA
