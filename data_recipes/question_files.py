"""Finding the questions below a folder: one table in it, or a file beside each clip."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from avrt.data.sample import Modality
from avrt.data_recipes.annotation_tables import JSON_LINES, TABLES, read_object, read_rows
from avrt.data_recipes.columns import MEDIA
from avrt.errors import AvrtError, BadSampleError
from avrt.messages import short

_SUFFIXES = (".json", *JSON_LINES, *TABLES, ".parquet")
_BESIDE = (".json", ".txt")
_MEDIA_SUFFIXES = re.compile(
    r"mp4|mkv|webm|mov|avi|m4v|mpe?g|ts|flv|gif|jpe?g|png|webp|bmp|tiff?|wav|flac|mp3|ogg|opus|m4a|aac"
)
_MOST_SHOWN = 8
_LETTERED = re.compile(r"\s*(?:[(\[]\s*[A-Za-z]\s*[)\]]|[A-Za-z]\s?[).:])\s*\S.*")
_ANSWER = re.compile(r"\s*(?:right |correct )?answers?\s*[:=]\s*(.*)", re.IGNORECASE)
_EXTRA = re.compile(r"\s*(type|relation|trace|several)\s*:\s*(.*)", re.IGNORECASE)
_OWN_NAMES = {"type": "question_type"}


@dataclass(frozen=True)
class Questions:
    """The questions of a folder, as rows.

    Attributes:
        files: The files that hold them.
        what: What kind of files they are, for people.
        rows: The rows, and an error in place of each unreadable one.
        names: Names of the rows; None if they have only numbers.
        table: Whether all cells are texts, so that whole numbers among answers are numbers.
    """

    files: tuple[Path, ...]
    what: str
    rows: list[Any]
    names: tuple[str, ...] | None = None
    table: bool = False


def find_questions(root: Path, wanted: str | None) -> Questions:
    """The questions in a folder.

    Args:
        root: The folder.
        wanted: The file of questions, below the folder. By default it is the one file of a known kind in it (one that
            is named `questions` comes first), or else there is a `.json` or `.txt` beside each clip, of the same name.

    Raises:
        AvrtError: If there is none, or more than one.
    """
    if not root.is_dir():
        raise AvrtError("no such folder", where=root, remedy="set --root to the folder of your clips and questions")
    path = root / wanted if wanted is not None else _the_one_table(root)
    if path is not None:
        if not path.is_file() and wanted is not None:
            there = [file.name for file in _tables(root)]
            near = get_close_matches(wanted, there, 1)
            raise AvrtError("no such file", where=path, remedy=_choose(near or there) if there else "see --root")
        rows = read_rows(path)
        kind = path.suffix.lower()
        return Questions((path,), f"{len(rows)} rows ({kind[1:]})", rows, table=kind in TABLES)
    return _beside_clips(root)


def _tables(root: Path) -> list[Path]:
    """The files in a folder that may hold all questions; those that describe one clip beside them do not."""
    files = sorted(path for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    clips = {path.stem for path in files if is_media(path.name)}
    return [
        path
        for path in files
        if path.suffix.lower() in _SUFFIXES and path.stem not in clips and path.name != "manifest.json"
    ]


def _the_one_table(root: Path) -> Path | None:
    """The one file that holds all questions; None if there is no candidate.

    Raises:
        AvrtError: If there are several candidates.
    """
    found = _tables(root)
    named = [path for path in found if path.stem == "questions"]
    if len(named or found) > 1:
        names = [path.name for path in found]
        raise AvrtError(f"{len(names)} files may hold the questions", where=root, remedy=_choose(names))
    return next(iter(named or found), None)


def _choose(names: list[str]) -> str:
    shown = ", ".join(f"--questions {name}" for name in names[:_MOST_SHOWN])
    return f"choose one: {shown}{', ...' if len(names) > _MOST_SHOWN else ''}"


def is_media(name: str) -> bool:
    """Whether a file's suffix is that of a video, a picture or a sound."""
    return _MEDIA_SUFFIXES.fullmatch(name.lower().rpartition(".")[2]) is not None


def media_below(folder: Path, inside: tuple[Path, ...]) -> Iterator[Path]:
    """All media files below a folder, in order of their paths.

    Args:
        folder: Where to look.
        inside: Links are followed to these folders and what is below them.
    """
    seen: set[Path] = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        here = Path(at).resolve()
        if here in seen or not any(here.is_relative_to(root) for root in inside):
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(at) / name for name in sorted(files) if is_media(name) and not name.startswith("."))


def _beside_clips(root: Path) -> Questions:
    """The questions in files beside the clips, of the same names."""
    clips: dict[Path, dict[str, str]] = {}
    for path in media_below(root, (root.resolve(),)):
        kinds = clips.setdefault(path.with_suffix(""), {})
        kind = str(Modality.named(path.name))
        if kind in kinds:
            kinds["twice"] = path.name
        kinds.setdefault(kind, path.relative_to(root).as_posix())
    files: list[Path] = []
    rows: list[Any] = []
    names: list[str] = []
    for stem, media in clips.items():
        beside = [path for suffix in _BESIDE if (path := stem.parent / f"{stem.name}{suffix}").is_file()]
        found = _questions_of(beside, media) if beside else []
        name = stem.relative_to(root).as_posix()
        files += beside[:1]
        for number, row in enumerate(found, 1):
            row_name = name if len(found) == 1 else f"{name}-{number}"
            rows.append({"id": row_name, **row} if isinstance(row, dict) else row)
            names.append(row_name)
    if not rows:
        raise _nothing_found(root, len(clips))
    what = f"{len(rows)} questions beside {len(clips)} clips"
    return Questions(tuple(files), what, rows, tuple(names), table=all(file.suffix == ".txt" for file in files))


def _questions_of(beside: list[Path], media: Mapping[str, str]) -> list[Any]:
    """The questions about one clip, each with the clip's files."""
    if len(beside) > 1:
        names = " and ".join(path.name for path in beside)
        return [BadSampleError(f"has its questions twice: {names}", remedy="leave one of them")]
    if "twice" in media:
        remedy = "give them other names, or list the clips in one table"
        return [BadSampleError(f"{media['twice']} is a second file of this name", remedy=remedy)]
    [path] = beside
    try:
        found = _from_json(path) if path.suffix == ".json" else _from_text(path)
    except AvrtError as error:
        return [BadSampleError(f"{path.name}: {error.what}", remedy=error.remedy)]
    return [row if not isinstance(row, dict) or any(row.get(k) for k in MEDIA) else {**row, **media} for row in found]


def _from_json(path: Path) -> list[Any]:
    """One question, a list of them, or an object with a list `questions`."""
    one = read_object(path)
    if one is None:
        return read_rows(path)
    inner = one.get("questions")
    return inner if isinstance(inner, list) else [one]


def _from_text(path: Path) -> list[Any]:
    """Questions with a blank line between them: the question, a line for each lettered choice, and `Answer: B`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AvrtError("is not UTF-8", remedy="save it as UTF-8") from None
    blocks = [block for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if block.strip()]
    return [_from_block(block.strip("\n").split("\n")) for block in blocks]


def _from_block(lines: list[str]) -> dict[str, Any]:
    question: list[str] = []
    choices: list[str] = []
    row: dict[str, Any] = {}
    for line in lines:
        if told := _ANSWER.fullmatch(line):
            row["answer"] = told[1].strip() or None
        elif choices and (extra := _EXTRA.fullmatch(line)):
            name = extra[1].lower()
            row[_OWN_NAMES.get(name, name)] = extra[2].strip() or None
        elif question and _LETTERED.fullmatch(line):
            choices.append(line.strip())
        elif choices:
            choices[-1] += f" {line.strip()}"
        else:
            question.append(line.strip())
    return {"question": " ".join(question), "choices": choices or None, "answer": None, **row}


def _nothing_found(root: Path, clips: int) -> AvrtError:
    books = sorted(path.name for path in root.iterdir() if path.suffix.lower() in (".xlsx", ".xls", ".ods"))
    if books:
        remedy = f"save {short(books[0])} as CSV (UTF-8), and name a column for the clip, the question and each choice"
        return AvrtError("holds its questions in a spreadsheet", where=root, remedy=remedy)
    remedy = "put a table there (.csv, .tsv, .jsonl, .json or .parquet), or a .json or .txt beside each clip"
    there = f"{clips} clips but no questions" if clips else "neither questions nor clips"
    return AvrtError(f"holds {there}", where=root, remedy=remedy)
