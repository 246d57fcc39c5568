"""folder: your own questions, one per row of a JSON, JSON-lines, Parquet or CSV file, and a folder of media.

A row has `question`, `choices` (2 to 26 texts, as a list, an object, either of them as JSON, or columns `A`, `B`, ...),
`answer` (index, letter or text; may be missing for prediction), and media as paths below the root: `video`, `image`,
`audio`, or `media` for one file whose suffix tells its kind. It may have `id`, `relation` (both, audio, vision),
`question_type`, `trace`, and `several`: true if several choices may be right, so that `answer` is a list, or a text of
letters such as `A,C`. Other fields become metadata if they are texts, numbers or booleans.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from avrt.data.media.clip import ClipSpec
from avrt.data.sample import LETTERS, Modality, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.data_recipes.annotation_tables import TABLES, read_rows
from avrt.data_recipes.annotations import Row, items, media_file, plain_metadata, row_id
from avrt.data_recipes.labels import Answers, counts_from_one, index_in, read_labels
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError
from avrt.messages import short

_WHOLE = re.compile(r"[0-9]{1,9}")
_OWN = {"id", "question", "choices", "answer", "several", "relation", "question_type", "trace", "media", *Modality}
_TRUTHS = {"true": True, "false": False, "": False}


@dataclass
class Folder(Recipe):
    """Your own data.

    Attributes:
        questions: The file of questions, below the root: .json, .jsonl, .parquet, .csv or .tsv.
        prefix: A row without an id is named by this prefix and its number.
        answers: What the answers are. This decides if an answer has two readings, such as `A` if a choice is "A".
        count_from: Index of the first choice; by default 0, and refused if the file seems to count from 1.
    """

    questions: str = "questions.jsonl"
    prefix: str = "q"
    answers: Literal["auto", "index", "letter", "text"] = "auto"
    count_from: Literal[0, 1] | None = None
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The file of questions."""
        return (root / self.questions,)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every row as a question or an error."""
        rows = [self._row(row) for row in read_rows(*self.annotations(root))]
        pairs = [
            (row.get("choices"), entry)
            for row in rows
            if isinstance(row, dict)
            for entry in _entries(row.get("answer"))
        ]
        unsure = self.count_from is None and counts_from_one(pairs)

        def convert(name: str, row: Row) -> SourceItem:
            answer = row.get("answer")
            if unsure and any(index_in(row["choices"], entry) is not None for entry in _entries(answer)):
                raise BadSampleError(
                    f"field 'answer' is {short(answer)}; indexes of this file seem to count from 1",
                    where=name,
                    remedy="add --count_from 1 or --count_from 0",
                )
            kind, base = Answers(self.answers), self.count_from or 0
            several = _TRUTHS.get(str(row.get("several") or "").strip().lower())
            if several is None:
                raise BadSampleError(f"field 'several' is {short(row['several'])}, needs true or false", where=name)
            labels = read_labels(row["choices"], answer, where=name, kind=kind, base=base, several=several)
            files: dict[Modality, Path] = {
                kind: media_file(root, row[kind], name, kind) for kind in Modality if row.get(kind) is not None
            }
            if row.get("media") is not None:
                path = media_file(root, row["media"], name, "media")
                files.setdefault(Modality.named(path.name), path)
            if not files:
                raise BadSampleError("has no media: needs a field 'video', 'image', 'audio' or 'media'", where=name)
            trace = row.get("trace")
            trace = None if isinstance(trace, str) and not trace.strip() else trace
            sample = Sample(
                id=row_id(row, "id", name) if row.get("id") is not None else name,
                question=row["question"],
                choices=labels.choices,
                answer=labels.answer,
                several=several,
                relation=row.get("relation"),
                question_type=row.get("question_type"),
                # its letters are those of the file, which are wrong now
                trace=None if labels.moved else trace,
                metadata=plain_metadata({key: value for key, value in row.items() if key not in _OWN}),
            )
            left = ("its trace is left out, since its choices have other letters now",)
            return SourceItem(sample, files, labels.notes + (left if labels.moved and trace else ()))

        named = rows[0] if rows and isinstance(rows[0], dict) else {}
        yield from items(rows, self.prefix, convert, by=next((k for k in Modality if named.get(k)), "media"))

    def _row(self, row: Any) -> Any:
        """A row with columns of choices joined to an object, and with whole numbers of a table as numbers."""
        if not isinstance(row, dict):
            return row
        if row.get("choices") is None and "A" in row and "B" in row:
            letters = [letter for letter in LETTERS if letter in row]
            row = {**{key: value for key, value in row.items() if key not in letters},
                   "choices": {letter: row[letter] for letter in letters}}  # fmt: skip
        answer = row.get("answer")
        if (
            Path(self.questions).suffix.lower() in TABLES
            and isinstance(answer, str)
            and _WHOLE.fullmatch(answer.strip())
        ):
            row = {**row, "answer": int(answer) if self.answers != "text" else answer}
        return row


def _entries(answer: Any) -> list[Any]:
    """The right answers: the entries of a list, or the one answer."""
    return answer if isinstance(answer, list) else [answer]


recipe = Folder
