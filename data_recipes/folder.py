"""folder: your own clips and questions: a CSV, TSV, JSON, JSON-lines or Parquet table, or a file beside each clip.

docs/own_data.md tells which columns are recognised, how choices and answers may be written, and what is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes import cells
from avrt.data_recipes.annotations import Row, items, one_item, plain_metadata, row_id
from avrt.data_recipes.columns import MEDIA, Columns, plain, recognise, told
from avrt.data_recipes.labels import Answers, counts_from_one, index_in, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.question_files import Questions, find_questions, media_below
from avrt.data_recipes.recipe import FileRecipe, Meaning
from avrt.errors import AvrtError, BadSampleError
from avrt.messages import printable, short

_WHOLE = re.compile(r"[0-9]{1,9}")
YES_NO = ("Yes", "No")


@dataclass
class Folder(FileRecipe):
    """Your own data: a table of questions beside a folder of clips, or a file of questions beside each clip.

    Attributes:
        questions: The file of questions, below the root: .json, .jsonl, .parquet, .csv or .tsv; by default the one
            that is there, or the .json or .txt beside each clip.
        prefix: A row without an id is named by this prefix and its number.
        answers: What the answers are. This decides if an answer has two readings, such as `A` if a choice is "A".
        count_from: Index of the first choice; by default 0, and refused if the file seems to count from 1.
        columns: Which column holds what, where its name does not tell: --columns.question Frage. `none` ignores one.
        separator: What stands between choices in one cell; by default a new line, | or ;
        several: Whether several choices may be right in all rows; by default as the column `several` says, or where
            answers are lists.
    """

    questions: str | None = None
    prefix: str = "q"
    answers: Literal["auto", "index", "letter", "text"] = "auto"
    count_from: Literal[0, 1] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    separator: str | None = None
    several: bool | None = None
    clip: ClassVar[ClipSpec] = ClipSpec(audio_seconds=None)

    def __post_init__(self) -> None:
        """Refuse a folder that is not there; no file has been read yet."""
        super().__post_init__()
        self._read: tuple[Any, Questions] | None = None
        self._understood: OwnTable | None = None

    def found(self, root: Path) -> Questions:
        """The questions of a folder; the last ones are kept, and read again only if their files have changed."""
        if self._read is None or self._read[0] != _state(root, self._read[1].files):
            found = find_questions(root, self.questions)
            self._read = (_state(root, found.files), found)
        return self._read[1]

    def _table(self, root: Path) -> OwnTable:
        if self._understood is None or self._understood.source is not self.found(root):
            self._understood = OwnTable.read(self, root)
        return self._understood

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The file of questions, or the files beside the clips."""
        return self.found(root).files

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every row as a question or an error."""
        table = self._table(root)
        by = next((table.columns.taken[kind] for kind in MEDIA if kind in table.columns.taken), "media")
        yield from items(table.rows, self.prefix, table.convert, by, table.source.names)

    def meanings(self, root: Path) -> list[Meaning]:
        """What each column was taken for, with what the first row has there."""
        table = self._table(root)
        columns, row = table.columns, next((row for row in table.rows if isinstance(row, Mapping)), {})
        found = [Meaning(name, meaning, shown(row.get(name))) for meaning, name in columns.taken.items()]
        if columns.choices:
            texts = " | ".join(shown(row.get(name)) for name in columns.choices)
            found.append(Meaning(", ".join(columns.choices), "choices", texts))
        kept = plain_metadata({name: row[name] for name in columns.rest if name in row})
        for name in columns.rest:
            lost = name in row and name not in kept
            found.append(Meaning(name, "nothing: not a plain value" if lost else "metadata", shown(row.get(name))))
        return found

    def first(self, root: Path) -> SourceItem | BadSampleError | None:
        """The question of the first row."""
        table = self._table(root)
        if not table.rows:
            return None
        name = f"{self.prefix}-00000" if table.source.names is None else table.source.names[0]
        return one_item(name, table.rows[0], table.convert)


def _state(root: Path, files: tuple[Path, ...]) -> Any:
    """What differs if files below a root have changed; None for one that is gone."""
    stats = [file.stat() if file.is_file() else None for file in files]
    return root, [stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def shown(value: Any) -> str:
    """A cell for the terminal."""
    return "" if value is None else printable(value) if isinstance(value, str) else short(value, 200)


@dataclass
class OwnTable:
    """A folder's rows with the meaning of their columns.

    Attributes:
        options: The recipe with its options.
        root: The folder.
        source: The questions as they were found.
        columns: What each column means.
    """

    options: Folder
    root: Path
    source: Questions
    columns: Columns

    @classmethod
    def read(cls, options: Folder, root: Path) -> OwnTable:
        """Read a folder's questions and recognise their columns.

        Raises:
            AvrtError: If there are none, two columns may mean the same, or no column is the question or the media.
        """
        source = options.found(root)
        where = source.files[0] if len(source.files) == 1 else root
        columns = recognise(source.rows, options.columns, where)
        table = cls(options, root, source, columns)
        if any(isinstance(row, Mapping) for row in source.rows):
            table._require(where)
        return table

    def _require(self, where: Path) -> None:
        taken = self.columns.taken
        names = told([*taken.values(), *self.columns.choices, *self.columns.rest])
        lacking = [name for name in ("question",) if name not in taken]
        lacking += [] if any(kind in taken for kind in MEDIA) else ["media"]
        lacking += [] if "choices" in taken or self.columns.choices or self.yes_no else ["choices"]
        if lacking:
            what = "clips" if lacking[0] == "media" else lacking[0]
            remedy = f"add --columns.{lacking[0]} NAME; its columns are {names}"
            if lacking[0] == "choices":
                remedy = f"name the columns of the choices A, B, ..., or {remedy}"
            raise AvrtError(f"no column is known to hold the {what}", where=where, remedy=remedy)

    @cached_property
    def rows(self) -> list[Any]:
        """The rows; whole numbers among a table's answers are numbers."""
        return [self._with_number(row) for row in self.source.rows]

    @cached_property
    def yes_no(self) -> bool:
        """Whether there are no choices because all answers are yes or no."""
        answers = [a for row in self.rows if isinstance(row, Mapping) and (a := self.columns.value(row, "answer"))]
        return bool(answers) and all(map(cells.is_yes_or_no, answers))

    @cached_property
    def has_lists(self) -> bool:
        """Whether some answer is a list of several."""
        return any(
            isinstance(answer, list) and len(answer) > 1
            for row in self.rows
            if isinstance(row, Mapping)
            for answer in [cells.listed(self.columns.value(row, "answer"))]
        )

    @cached_property
    def base(self) -> int:
        """Number of the first choice among answers that are numbers."""
        return self.columns.first or 0 if self.options.count_from is None else self.options.count_from

    @cached_property
    def unsure(self) -> bool:
        """Whether answers that are numbers seem to count from another number than `base`."""
        if self.options.count_from is not None:
            return False
        pairs = [
            (options, entry)
            for row in self.rows
            if isinstance(row, Mapping) and (options := self._choices(row)) is not None
            for entry in _entries(self.columns.value(row, "answer"))
        ]
        if self.base == 0:
            return counts_from_one(pairs)
        return any(found is not None and found[0] == 0 for found in (index_in(*pair) for pair in pairs))

    def _with_number(self, row: Any) -> Any:
        name = self.columns.taken.get("answer")
        answer = row.get(name) if isinstance(row, Mapping) and name else None
        if not self.source.table or not isinstance(answer, str) or not _WHOLE.fullmatch(answer.strip()):
            return row
        return {**row, name: int(answer) if self.options.answers != "text" else answer}

    def choices(self, row: Row, name: str) -> Any:
        """A row's choices, as `read_labels` takes them.

        Raises:
            BadSampleError: If it has none, or they are in one cell without a separator that is known.
        """
        options, column = self._choices(row), self.columns.name("choices")
        if options is None:
            remedy = "give 2 to 26 texts" if column in row or self.columns.choices else "give them in every row"
            raise BadSampleError(f"field '{column}' is missing or empty", where=name, remedy=remedy)
        if isinstance(options, str) and "," in options and options.strip()[:1] not in ("[", "{"):
            remedy = "put | or ; between the choices, or add --separator ,"
            raise BadSampleError(f"field '{column}' is {short(options)}, needs a list", where=name, remedy=remedy)
        return options

    def _choices(self, row: Row) -> Any:
        whole = self.columns.value(row, "choices")
        if whole not in (None, ""):
            return cells.split_choices(whole, self.options.separator)
        there = [place for place, name in enumerate(self.columns.choices) if name in row]
        if len(there) > 1:
            names = self.columns.choices[: there[-1] + 1]  # a choice that is missing between others keeps its place
            texts = [row.get(name) for name in names]
            numbered = self.columns.first is not None
            return texts if numbered else dict(zip((plain(name)[-1].upper() for name in names), texts, strict=True))
        return list(YES_NO) if self.yes_no and "choices" not in self.columns.taken else None

    def several(self, row: Row, name: str) -> bool:
        """Whether several choices of a row may be right."""
        if self.options.several is not None:
            return self.options.several
        if "several" in self.columns.taken:
            return cells.truth(self.columns.value(row, "several"), name, self.columns.name("several"))
        return self.has_lists and isinstance(cells.listed(self.columns.value(row, "answer")), list)

    def convert(self, name: str, row: Row) -> SourceItem:
        """Make a question of a row."""
        value, column = self.columns.value, self.columns.name
        several = self.several(row, name)
        options = self.choices(row, name)
        answer = value(row, "answer")
        if self.unsure and any(index_in(options, entry) is not None for entry in _entries(answer)):
            raise BadSampleError(
                f"field '{column('answer')}' is {short(answer)}; indexes of this file seem to count from "
                f"{1 - self.base}",
                where=name,
                remedy="add --count_from 1 or --count_from 0",
            )
        labels = read_labels(
            options,
            cells.chosen(cells.listed(answer), options, self.columns.choices),
            where=name,
            fields=(column("choices"), column("answer")),
            kind=Answers(self.options.answers),
            base=self.base,
            several=several,
        )
        files = self.files(row, name)
        sample = Sample(
            id=row_id(row, column("id"), name) if value(row, "id") is not None else name,
            question=row[column("question")],
            choices=labels.choices,
            answer=labels.answer,
            several=several,
            relation=cells.relation(value(row, "relation"), name, column("relation")),
            question_type=value(row, "question_type"),
            metadata=plain_metadata({key: row[key] for key in self.columns.rest if key in row}),
        )
        told = value(row, "trace")
        if labels.moved and str(told or "").strip():  # its letters are those of the file, which are wrong now
            left = "its trace is left out, since its choices have other letters now"
            return SourceItem(sample, files, (*labels.notes, left))
        trace = cells.trace(told, sample, name, column("trace"))
        return SourceItem(replace(sample, trace=trace), files, labels.notes)

    def files(self, row: Row, name: str) -> dict[Modality, Path]:
        """A row's media files.

        Raises:
            BadSampleError: If it names none, or leads out of the folders that media may be in.
        """
        files: dict[Modality, Path] = {}
        for kind in MEDIA:
            if (named := self.columns.value(row, kind)) is None:
                continue
            field_name = self.columns.name(kind)
            path = media_file(self.root, named, name, field_name, media_root=self.options.media_root)
            if not path.is_file() and isinstance(named, str):
                path = self._by_name(named, name, field_name) or path
            modality = Modality.named(path.name) if kind == "media" else Modality(kind)
            if files.setdefault(modality, path) != path:
                raise BadSampleError(
                    f"fields '{self.columns.name(modality)}' and '{field_name}' both name its {modality}",
                    where=name,
                    remedy=f"--columns.media none ignores '{field_name}'",
                )
        if not files:
            columns = [self.columns.taken[kind] for kind in MEDIA if kind in self.columns.taken]
            which = ", ".join(f"'{column}'" for column in columns) or "'video', 'image', 'audio' or 'media'"
            raise BadSampleError(
                f"has no media: needs a field {which}", where=name, remedy="give the clip's path below --root"
            )
        return files

    @cached_property
    def _media(self) -> dict[str, list[Path]]:
        """File name, and name without suffix -> the files below the root and the media root."""
        roots = [self.root, *([Path(self.options.media_root)] if self.options.media_root else [])]
        found: dict[str, list[Path]] = {}
        for folder in roots:
            for path in media_below(folder, tuple(root.resolve() for root in roots)):
                for name in {path.name, path.stem}:
                    known = found.setdefault(name, [])
                    if all(path.resolve() != other.resolve() for other in known):
                        known.append(path)
        return found

    def _by_name(self, named: str, name: str, field_name: str) -> Path | None:
        """The one file with a bare name, wherever it is below the roots; None if there is none."""
        if "/" in named or "\\" in named:
            return None
        found = self._media.get(named.strip(), [])
        if len(found) > 1:
            shown = " or ".join(short(os.path.relpath(path, self.root)) for path in found[:2])
            raise BadSampleError(
                f"field '{field_name}' is {short(named)}, which may be {shown}",
                where=name,
                remedy="give the path below --root",
            )
        if not found:
            return None
        path = found[0]  # it may be a link to anywhere
        there = path.relative_to(self.root) if path.is_relative_to(self.root) else path.absolute()
        return media_file(self.root, str(there), name, field_name, media_root=self.options.media_root)


def _entries(answer: Any) -> list[Any]:
    """The right answers: the entries of a list, or the one answer."""
    answer = cells.listed(answer)
    return answer if isinstance(answer, list) else [answer]


recipe = Folder
