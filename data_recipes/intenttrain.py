"""IntentTrain, HumanOmniV2's training questions about people's intentions and moods, from the hub's layout.

`root` holds `emer_rewrite.json` or `social_iq_v2_rewrite.json` or both, and `videos/`, unpacked from `videos.zip`, with
the videos that they name in `path`.

Homepage: https://huggingface.co/datasets/PhilipC/IntentTrain (code: github.com/HumanMLLM/HumanOmniV2).
Paper: Yang et al., HumanOmniV2: From Understanding to Omni-Modal Reasoning with Context, arXiv 2506.21277.
Licence: Apache-2.0 for the code; CC BY-NC-SA 4.0 for the authors' own videos.

A row:

    {"problem": "Are the participants confident?", "problem_type": "multiple choice", "options": ["A. Yes", "B. No"],
     "answer": "A", "data_type": "video", "path": "social_iq/sample_001.mp4"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row
from avrt.data_recipes.humanomni import KINDS, convert_row
from avrt.data_recipes.recipe import TableRecipe

FILES = ("emer_rewrite.json", "social_iq_v2_rewrite.json")


@dataclass
class IntentTrain(TableRecipe):
    """IntentTrain: 8 frames and the whole sound, as NeMo-RL takes them.

    Rows that have no choices (`free-form`, `numerical`, ...) are left out, each by name.

    Attributes:
        only: Use only rows of this `problem_type`; NeMo-RL trains on `multiple choice`.
    """

    name: ClassVar[str] = "intenttrain"
    by: ClassVar[str] = "path"
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    only: Literal["multiple choice", "emer_ov_mc", "judge"] | None = None

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The files that are there, at least one."""
        found = tuple(path for path in (root / name for name in FILES) if path.is_file())
        return found or (root / FILES[0],)

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video with sound."""
        return convert_row(root, name, row, KINDS if self.only is None else (self.only,), media_root=self.media_root)


recipe = IntentTrain
