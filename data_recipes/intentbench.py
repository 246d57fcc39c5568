"""IntentBench: HumanOmniV2's benchmark of people's intentions, moods and honesty, from the hub's layout.

`root` holds `qa.json` and the videos that it names in `video`, there or below `videos/`, unpacked from `videos.zip`.

Homepage: https://huggingface.co/datasets/PhilipC/IntentBench (evaluation: github.com/HumanMLLM/HumanOmniV2).
Paper: Yang et al., HumanOmniV2: From Understanding to Omni-Modal Reasoning with Context, arXiv 2506.21277.
Licence: Apache-2.0 for the code; CC BY-NC-SA 4.0 for the authors' own videos.

A row:

    {"qid": "emer_12", "Type": "emer", "problem": "What are the dominant emotional states of the man in the video?",
     "problem_type": "emer_ov_mc", "data_type": "video", "video": "emer/sample_00000123.mp4",
     "options": ["A. Questioning", "B. Helpless", "C. Curiosity", "D. Sentimentality", "E. Angry", "F. Friendly"],
     "answer": "B,E", "solution": "<answer>B,E</answer>"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row
from avrt.data_recipes.humanomni import convert_row
from avrt.data_recipes.recipe import OneFileRecipe


@dataclass
class IntentBench(OneFileRecipe):
    """The IntentBench benchmark (2,689 questions over 633 videos when complete).

    An answer is one letter (`multiple choice`), several (`emer_ov_mc`), or yes or no (`judge`). Its authors take two
    frames a second and the whole sound; more than 128 frames would leave no room for the sound.
    """

    name: ClassVar[str] = "intentbench"
    by: ClassVar[str] = "video"
    clip: ClassVar[ClipSpec] = ClipSpec(fps=2.0, max_frames=128, audio_seconds=None)

    annotation: str = "qa.json"

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video with sound."""
        return convert_row(root, name, row, media_root=self.media_root)


recipe = IntentBench
