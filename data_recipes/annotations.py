"""What recipes of annotation files share: rows from JSON or JSON lines, safe media paths, errors that name the row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from avrt.data.conversion import SourceItem
from avrt.errors import AvrtError, BadSampleError

Row = Mapping[str, Any]
_PLAIN_NAME = re.compile(r"[\w-]+")
_LETTER = re.compile(r"^[A-Z][.)]\s*")


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON list, or of JSON lines or a Parquet table where the name ends so.

    Raises:
        AvrtError: If the file is missing, or is none of these.
    """
    if not path.is_file():
        raise AvrtError("no such file", where=path, remedy=f"set --root to the folder with {path.name}")
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if _lines(path) else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AvrtError(f"not JSON: {error}", where=path) from None
    if not isinstance(rows, list):
        raise AvrtError("needs a list of questions", where=path)
    return rows


def _lines(path: Path) -> bool:
    return path.suffix in (".jsonl", ".ndjson")


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise AvrtError("Parquet needs the package pyarrow", where=path, remedy="pip install 'avrt[traces]'") from None
    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise AvrtError(f"not a Parquet table: {error}", where=path) from None


def items(
    rows: Sequence[Any], prefix: str, convert: Callable[[str, Row], SourceItem], by: str
) -> Iterator[SourceItem | BadSampleError]:
    """Convert each row, those about one clip in a run so that it is decoded once.

    Args:
        rows: As read.
        prefix: Names begin with it; the row's number follows.
        convert: Makes an item from its name and row; may raise what a row of another shape brings about.
        by: Field that names the clip.
    """

    def clip(pair: tuple[int, Any]) -> tuple[str, int]:
        return (str(pair[1].get(by)) if isinstance(pair[1], Mapping) else "", pair[0])

    for number, row in sorted(enumerate(rows), key=clip):
        name = f"{prefix}-{number:05d}"
        try:
            if not isinstance(row, Mapping):
                raise BadSampleError(f"is a {type(row).__name__}, not an object", where=name)
            yield convert(name, row)
        except BadSampleError as error:
            yield error
        except KeyError as error:
            yield BadSampleError(f"field {error} is missing", where=name)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            yield BadSampleError(f"not a question: {error}", where=name)


def media_file(root: Path, relative: Any, name: str, field: str) -> Path:
    """A media file that an annotation names, which has to lie below the root; whether it is there, conversion tells.

    Raises:
        BadSampleError: If it is no relative path, or leaves the root.
    """
    if not isinstance(relative, str) or not relative:
        raise BadSampleError(f"field '{field}' is {relative!r}, no path", where=name)
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise BadSampleError(f"field '{field}' leads out of the dataset: {relative!r}", where=name)
    path = root / parts
    if not path.resolve().is_relative_to(root.resolve()):
        raise BadSampleError(f"field '{field}' leads out of the dataset through a link: {relative!r}", where=name)
    return path


def plain_name(value: Any, name: str, field: str) -> str:
    """A name that an annotation gives to a clip, out of which a path can be made.

    Raises:
        BadSampleError: If it is anything but letters, digits, `_` and `-`.
    """
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value):
        raise BadSampleError(f"field '{field}' is {value!r}, no plain name", where=name)
    return value


def without_letter(option: str) -> str:
    """An option's text without the letter that it may be written with: `A. yes` or `A) yes` is `yes`."""
    return _LETTER.sub("", option)


def index_of(choices: Sequence[str], answer: Any, name: str) -> int:
    """Where the right choice's text stands among the choices.

    Raises:
        BadSampleError: If it is not there, or there twice.
    """
    found = [i for i, choice in enumerate(choices) if choice == answer]
    if not found and isinstance(answer, str):
        found = [i for i, choice in enumerate(choices) if choice.strip() == answer.strip()]
    if len(found) != 1:
        raise BadSampleError(f"field 'answer' is {answer!r}, which {len(found)} of its choices say", where=name)
    return found[0]
