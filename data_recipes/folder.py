"""folder: your own questions, one per row of a JSON, JSON-lines or Parquet file, beside a folder of media.

A row has `question`, `choices` (2 to 26 texts), `answer` (index, letter or text; may be missing where nothing is
trained or scored), and media, as paths below the root: `video`, `image`, `audio`, or `media` for one file of the kind
that its name tells. It may have `id`, `relation` (both, sound, view), `question_type` and `trace`. All else becomes
metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.data.conversion import SourceItem
from avrt.data.sample import LETTERS, Modality, Sample
from avrt.errors import BadSampleError
from data_recipes.annotations import Row, index_of, items, media_file, read_rows
from data_recipes.recipe import Recipe

_OWN = {"id", "question", "choices", "answer", "relation", "question_type", "trace", "media", *Modality}


@dataclass
class Folder(Recipe):
    """Your own data.

    Attributes:
        questions: The file of questions, below the root: .json, .jsonl or .parquet.
        prefix: Ids of rows without one begin with it; their number follows.
    """

    questions: str = "questions.jsonl"
    prefix: str = "q"

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return (root / self.questions,)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """See `Recipe.items`."""

        def convert(name: str, row: Row) -> SourceItem:
            choices = tuple(row["choices"])
            files: dict[Modality, Path] = {
                kind: media_file(root, row[kind], name, kind) for kind in Modality if row.get(kind) is not None
            }
            if row.get("media") is not None:
                path = media_file(root, row["media"], name, "media")
                files.setdefault(Modality.named(path.name), path)
            if not files:
                raise BadSampleError("names no media: field 'video', 'image', 'audio' or 'media'", where=name)
            sample = Sample(
                id=str(row["id"]) if row.get("id") is not None else name,
                question=row["question"],
                choices=choices,
                answer=_index(choices, row.get("answer"), name),
                relation=row.get("relation"),
                question_type=row.get("question_type"),
                trace=row.get("trace"),
                metadata={key: value for key, value in row.items() if key not in _OWN and _plain(value)},
            )
            return SourceItem(sample, files)

        rows = read_rows(*self.annotations(root))
        named = rows[0] if rows and isinstance(rows[0], dict) else {}
        yield from items(rows, self.prefix, convert, by=next((k for k in Modality if named.get(k)), "media"))


def _index(choices: tuple[str, ...], answer: Any, name: str) -> int | None:
    if answer is None:
        return None
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    letter = answer.strip() if isinstance(answer, str) and answer not in choices else ""
    if letter and letter in LETTERS[: len(choices)]:
        return LETTERS.index(letter)
    return index_of(choices, answer, name)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


recipe = Folder
