"""AVHBench: yes/no questions on whether what is seen is heard and what is heard is seen, from the benchmark's layout.

`root` holds `json/<video_id>.json`, or all of them as `json/qa.json`, and `video/<video_id>.mp4`. An id that ends in
`_swap` names a video with another clip's sound.

Homepage: https://avhbench.github.io (data: github.com/kaist-ami/AVHBench).
Paper: Sung-Bin et al., AVHBench: A Cross-Modal Hallucination Benchmark for Audio-Visual Large Language Models,
arXiv 2410.18325 (ICLR 2025).
Licence: none is stated; the videos come from VALOR and AudioCaps.

A row:

    {"video_id": "00191", "task": "Video-driven Audio Hallucination",
     "text": "Is the sleeping man making sound in the audio?", "label": "Yes"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import TableRecipe
from avrt.errors import BadSampleError
from avrt.messages import short

TASKS = {
    "Video-driven Audio Hallucination": Relation.AUDIO,
    "Audio-driven Video Hallucination": Relation.VISION,
    "AV Matching": Relation.BOTH,
}
CAPTIONING = "AV Captioning"


@dataclass
class AVHBench(TableRecipe):
    """The AVHBench benchmark, version 0 (5,302 yes/no questions when complete; its 1,106 captioning rows are left out).

    8 frames are what VideoLLaMA2 takes, the best of the paper's open models.
    """

    name: ClassVar[str] = "avhbench"
    by: ClassVar[str] = "video_id"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """`qa.json`, or else the files of all videos."""
        whole = root / "json" / "qa.json"
        found = (whole,) if whole.is_file() else tuple(sorted((root / "json").glob("*.json")))
        return found or (whole,)

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a yes/no question about a video with sound."""
        task = row["task"]
        if task == CAPTIONING:
            raise BadSampleError("a captioning row, whose label is not a choice", where=name)
        if not isinstance(task, str) or task not in TASKS:
            raise BadSampleError(f"field 'task' is {short(task)}, needs one of {', '.join(TASKS)}", where=name)
        video_id = plain_name(row["video_id"], name, "video_id")
        labels = read_labels(
            ["Yes", "No"], row.get("label"), where=name, fields=("choices", "label"), kind=Answers.TEXT
        )
        sample = Sample(
            id=name,
            question=row["text"],
            choices=labels.choices,
            answer=labels.answer,
            relation=TASKS[task],
            question_type=task,
            metadata={"video_id": video_id, "swapped": video_id.endswith("_swap")},
        )
        video = media_file(root, f"video/{video_id}.mp4", name, "video_id", media_root=self.media_root)
        return SourceItem(sample, {Modality.VIDEO: video}, labels.notes)


recipe = AVHBench
