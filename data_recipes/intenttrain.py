"""IntentTrain, HumanOmniV2's training questions about people's intentions and moods, from the hub's layout.

`root` holds `emer_rewrite.json` and `social_iq_v2_rewrite.json` (one of them will do), and `videos/`, unpacked from
`videos.zip`, with the videos that their `path` names.

Homepage: https://huggingface.co/datasets/PhilipC/IntentTrain (code: github.com/HumanMLLM/HumanOmniV2).
Paper: Yang et al., HumanOmniV2: From Understanding to Omni-Modal Reasoning with Context, arXiv 2506.21277.
Licence: Apache-2.0 for the code; CC BY-NC-SA 4.0 for the authors' own videos.

A row:

    {"problem": "Are the participants confident?", "problem_type": "multiple choice", "options": ["A. Yes", "B. No"],
     "answer": "A", "data_type": "video", "path": "social_iq/sample_001.mp4"}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from avrt.data.media.clip import ClipSpec
from avrt.data.shards.conversion import SourceItem
from avrt.errors import AvrtError, BadSampleError
from data_recipes.annotations import items, read_rows
from data_recipes.humanomni import KINDS, converter
from data_recipes.recipe import Recipe

FILES = ("emer_rewrite.json", "social_iq_v2_rewrite.json")


@dataclass
class IntentTrain(Recipe):
    """IntentTrain: 8 frames and the whole sound, as NeMo-RL takes them.

    Rows that have no choices (`free-form`, `numerical`, ...) are left out, each by name.

    Attributes:
        only: Use rows of this `problem_type` alone; NeMo-RL trains on `multiple choice`.
    """

    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    only: Literal["multiple choice", "emer_ov_mc", "judge"] | None = None

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return tuple(path for path in (root / name for name in FILES) if path.is_file())

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""
        files = self.annotations(root)
        if not files:
            raise AvrtError("no such file", where=root / FILES[0], remedy=f"set --root to the folder with {FILES[0]}")
        rows = [row for file in files for row in read_rows(file)]
        convert = converter(root, KINDS if self.only is None else (self.only,))
        yield from items(rows, "intenttrain", convert, by="path")


recipe = IntentTrain
