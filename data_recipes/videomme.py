"""Video-MME: questions about short, medium and long videos, from the hub's layout.

`root` holds `videomme/test-00000-of-00001.parquet` and `data/<videoID>.mp4` (or `.MP4`, `.mkv`). Subtitles are not
used.

Homepage: https://video-mme.github.io (evaluation: github.com/BradyFU/Video-MME).
Paper: Fu et al., Video-MME: The First-Ever Comprehensive Evaluation Benchmark of Multi-modal LLMs in Video Analysis,
arXiv 2405.21075.
Licence: academic research only, no commercial use, no redistribution; the videos are their owners'.

A row:

    {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Humanity & History",
     "url": "https://www.youtube.com/watch?v=fFjv93ACGo8", "videoID": "fFjv93ACGo8", "question_id": "001-1",
     "task_type": "Counting Problem", "question": "Which kind of decoration on the tree has the largest number?",
     "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are of the same number."],
     "answer": "C"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import first_file
from avrt.data_recipes.recipe import OneFileRecipe


@dataclass
class VideoMME(OneFileRecipe):
    """The Video-MME benchmark (2,700 questions over 900 videos when complete).

    Its authors leave the number of frames to the model; 64 over the whole video is the largest fixed number in
    VLMEvalKit. The whole sound is taken, which for videos of an hour is more than most prompts hold.
    """

    name: ClassVar[str] = "videomme"
    by: ClassVar[str] = "videoID"
    clip: ClassVar[ClipSpec] = ClipSpec(frames=64, audio_seconds=None)

    annotation: str = "videomme/test-00000-of-00001.parquet"

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video."""
        video_id = plain_name(row["videoID"], name, "videoID")
        labels = read_labels(
            row["options"], row.get("answer"), where=name, fields=("options", "answer"), kind=Answers.LETTER
        )
        sample = Sample(
            id=name,
            question=row["question"],
            choices=labels.choices,
            answer=labels.answer,
            question_type=row["task_type"],
            metadata={
                "question_id": row.get("question_id"),
                "video_id": video_id,
                "duration": row["duration"],
                "domain": row.get("domain"),
                "sub_category": row.get("sub_category"),
            },
        )
        video = first_file(
            root,
            [f"data/{video_id}{end}" for end in (".mp4", ".MP4", ".mkv")],
            name,
            "videoID",
            media_root=self.media_root,
        )
        return SourceItem(sample, {Modality.VIDEO: video}, labels.notes)


recipe = VideoMME
