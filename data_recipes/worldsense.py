"""WorldSense: questions about videos with sound, from the benchmark's own layout.

`root` holds `worldsense_qa.json` and `videos/<video>.mp4`. The file is one object: video -> facts about it and its
questions `task0`, `task1`, ... A list of questions with these facts can be read too (`--annotation`).

Homepage: https://jaaackhongggg.github.io/WorldSense/ (evaluation: VLMEvalKit).
Paper: Hong et al., WorldSense: Evaluating Real-world Omnimodal Understanding for Multimodal LLMs, arXiv 2502.04326.
Licence: CC BY-NC 4.0.

An entry:

    {"JlfMLFfm": {"video_id": "JlfMLFfm", "video_duration": "60s", "duration": "<1min", "domain": "Music",
      "sub_category": "Covers", "audio_class": ["Speech", "Music"], "video_caption": "...",
      "task0": {"task_domain": "Recognition", "task_type": "Audio Recognition", "question": "What instrument begins?",
        "answer": "B", "candidates": ["A. A violin", "B. A piano", "C. A drum", "D. A flute"]}}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotation_tables import read_object, read_rows
from avrt.data_recipes.annotations import Row, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import OneFileRecipe
from avrt.errors import BadSampleError
from avrt.messages import short

_TASK = re.compile(r"task\d+")


@dataclass
class WorldSense(OneFileRecipe):
    """The WorldSense benchmark (3,172 questions over 1,662 videos when complete).

    8 frames and the whole sound are VLMEvalKit's `WorldSense_8frame_audio`.
    """

    name: ClassVar[str] = "worldsense"
    by: ClassVar[str] = "video"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    annotation: str = "worldsense_qa.json"

    def rows(self, root: Path) -> list[Any]:
        """The questions of every video, or the rows of a list."""
        path = root / self.annotation
        whole = read_object(path)
        return read_rows(path) if whole is None else list(_questions(whole))

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video with sound."""
        video = plain_name(row["video"], name, "video")
        labels = read_labels(
            row["candidates"], row.get("answer"), where=name, fields=("candidates", "answer"), kind=Answers.LETTER
        )
        sample = Sample(
            id=name,
            question=row["question"],
            choices=labels.choices,
            answer=labels.answer,
            question_type=row["task_type"],
            metadata={
                "video_id": video,
                "task_domain": row.get("task_domain"),
                "domain": row.get("domain"),
                "sub_category": row.get("sub_category"),
                "duration": row.get("duration"),
                "audio_class": row.get("audio_class"),
            },
        )
        file = media_file(root, f"videos/{video}.mp4", name, "video", media_root=self.media_root)
        return SourceItem(sample, {Modality.VIDEO: file}, labels.notes)


def _questions(whole: Mapping[str, Any]) -> Iterator[Any]:
    """Every question with the facts about its video."""
    for video, facts in whole.items():
        tasks = [key for key in facts if _TASK.fullmatch(key)] if isinstance(facts, Mapping) else []
        if not tasks:
            yield BadSampleError(f"video {short(video)} has no questions task0, task1, ...")
            continue
        about = {key: value for key, value in facts.items() if key not in tasks}
        for task in tasks:
            row = facts[task]
            yield {**about, **row, "video": video} if isinstance(row, Mapping) else row


recipe = WorldSense
