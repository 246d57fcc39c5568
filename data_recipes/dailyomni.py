"""Daily-Omni: questions about 30 s and 60 s videos with sound, from the benchmark's own layout.

`root` holds `qa.json` and `Videos/<video_id>/<video_id>_video.mp4`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.data.conversion import SourceItem
from avrt.data.sample import LETTERS, Modality, Relation, Sample
from avrt.errors import AvrtError, BadSampleError
from data_recipes.recipe import Recipe

_LETTERED = re.compile(r"^[A-Z][.)]\s*")
_VIDEO_ID = re.compile(r"[\w-]+")


@dataclass
class DailyOmni(Recipe):
    """The Daily-Omni benchmark (1,197 questions over 684 videos when complete)."""

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""
        path = root / "qa.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise AvrtError("no such file", where=path, remedy="set --root to the folder with qa.json") from None
        except ValueError as error:
            raise AvrtError(f"not JSON: {error}", where=path) from None
        if not isinstance(rows, list):
            raise AvrtError("needs a list of questions", where=path)
        # Questions of one video follow each other, so that it is decoded once.
        numbered = sorted(enumerate(rows), key=lambda pair: (_video_id(pair[1]), pair[0]))
        for number, row in numbered:
            yield self._item(root, number, row)

    def _item(self, root: Path, number: int, row: Any) -> SourceItem | BadSampleError:
        name = f"dailyomni-{number:04d}"
        try:
            video_id = row["video_id"]
            if not isinstance(video_id, str) or not _VIDEO_ID.fullmatch(video_id):
                raise BadSampleError(f"field 'video_id' is {video_id!r}, no plain name", where=name)
            sample = Sample(
                id=name,
                question=row["Question"],
                choices=tuple(_LETTERED.sub("", choice) for choice in row["Choice"]),
                answer=LETTERS.index(row["Answer"].strip()[:1]),
                relation=Relation.BOTH,
                question_type=row["Type"],
                metadata={
                    "video_id": video_id,
                    "duration": row.get("video_duration"),
                    "category": row.get("video_category"),
                    "content_parent_category": row.get("content_parent_category"),
                    "content_fine_category": row.get("content_fine_category"),
                },
            )
        except BadSampleError as error:
            return error
        except KeyError as error:
            return BadSampleError(f"field {error} is missing", where=name)
        except (TypeError, ValueError, AttributeError) as error:
            return BadSampleError(f"not a question: {error}", where=name)
        video = root / "Videos" / video_id / f"{video_id}_video.mp4"
        if not video.is_file():
            return BadSampleError(f"video is missing: {video.relative_to(root)}", where=name)
        return SourceItem(sample, {Modality.VIDEO: video})


def _video_id(row: Any) -> str:
    return str(row.get("video_id")) if isinstance(row, dict) else ""


recipe = DailyOmni
