"""What recipes of annotation files share: each row as a question or an error that names it, safe media paths, ids."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError
from avrt.messages import LONGEST, printable, short
from avrt.text import clean_all
from data_recipes.options import Repeated
from data_recipes.tables import read_rows

__all__ = [
    "Row",
    "first_file",
    "items",
    "json_field",
    "media_file",
    "plain_metadata",
    "plain_name",
    "read_rows",
    "row_id",
]

Row = Mapping[str, Any]
_PLAIN_NAME = re.compile(r"[\w-]+")
CLEANED = "half a surrogate pair or NUL in its texts became U+FFFD"


def items(
    rows: Sequence[Any], prefix: str, convert: Callable[[str, Row], SourceItem], by: str
) -> Iterator[SourceItem | BadSampleError]:
    """Convert each row, those about one clip in a run so that it is decoded once.

    Rows that repeat an id are trusted only where they say the same: then the first is used.

    Args:
        rows: As read.
        prefix: Names begin with it; the row's number follows.
        convert: Makes an item from its name and row; may raise what a row of another shape brings about.
        by: Field that names the clip.
    """

    def clip(pair: tuple[int, Any]) -> tuple[str, int]:
        value = pair[1].get(by) if isinstance(pair[1], Mapping) else None
        return (value if isinstance(value, str) else "" if value is None else short(value), pair[0])

    found: list[tuple[str, SourceItem | BadSampleError]] = []
    first: dict[str, tuple[str, SourceItem]] = {}
    contested: dict[str, str] = {}
    for number, row in sorted(enumerate(rows), key=clip):
        name = f"{prefix}-{number:05d}"
        made = _one(name, row, convert)
        found.append((name, made))
        if isinstance(made, SourceItem):
            before = first.setdefault(made.sample.id, (name, made))
            if _said(before[1]) != _said(made):
                contested.setdefault(made.sample.id, f"{before[0]} and {name}")
    for name, made in found:
        if isinstance(made, BadSampleError):
            yield made
        elif made.sample.id in contested:
            pair = contested[made.sample.id]
            yield BadSampleError(
                f"id {short(made.sample.id)} occurs again with other contents ({pair}): none is used", where=name
            )
        elif first[made.sample.id][0] != name:
            yield BadSampleError(f"repeats {first[made.sample.id][0]}, which is used", where=name)
        else:
            yield made


def _one(name: str, row: Any, convert: Callable[[str, Row], SourceItem]) -> SourceItem | BadSampleError:
    try:
        if isinstance(row, BadSampleError):
            raise row
        if not isinstance(row, Mapping):
            raise BadSampleError(f"is a {type(row).__name__}, not an object")
        if isinstance(row, Repeated):
            raise BadSampleError(f"has the field {short(row.repeated)} twice")
        if not _odd(row):
            return convert(name, row)
        made = convert(name, clean_all(row))
        return replace(made, notes=(CLEANED, *made.notes))
    except BadSampleError as error:
        return BadSampleError(error.what, where=name, remedy=error.remedy)
    except KeyError as error:
        return BadSampleError(f"field {error} is missing", where=name)
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        return BadSampleError(f"not a question: {printable(str(error))[:LONGEST]}", where=name)


def _said(item: SourceItem) -> tuple[Any, ...]:
    """What two rows of one id may not differ in; other facts about them may."""
    sample = item.sample
    return sample.question, sample.choices, sample.answer, sample.relation, sample.trace, item.files


def _odd(value: Any) -> bool:
    """Whether a text in it has half of a surrogate pair or NUL."""
    if isinstance(value, str):
        return "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value))
    if isinstance(value, Mapping):
        return any(_odd(key) or _odd(inner) for key, inner in value.items() if isinstance(key, str))
    return isinstance(value, (list, tuple)) and any(map(_odd, value))


def row_id(row: Row, field: str, name: str) -> str:
    """A row's own id, a text or a number.

    Raises:
        BadSampleError: If it is neither.
    """
    value = row[field]
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and float(value).is_integer():
        value = str(int(value))
    elif number:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadSampleError(f"field '{field}' is {short(value)}, no id", where=name)
    return value


def plain_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are texts, numbers, truth values or null; numbers that are not finite become null."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            kept[key] = None
        elif value is None or isinstance(value, (str, int, float, bool)):
            kept[key] = value
    return kept


def json_field(row: Row, field: str, name: str) -> Any:
    """What a field holds that is JSON written as text.

    Raises:
        BadSampleError: If it is none.
    """
    try:
        return json.loads(row[field])
    except (TypeError, ValueError, RecursionError):
        raise BadSampleError(f"field '{field}' is {short(row[field])}, not JSON", where=name) from None


def media_file(root: Path, relative: Any, name: str, field: str) -> Path:
    """A media file that an annotation names, which has to lie below the root; whether it is there, conversion tells.

    Raises:
        BadSampleError: If it is no relative path, or leaves the root.
    """
    if isinstance(relative, Mapping) and set(relative) == {"bytes", "path"}:
        # how `datasets` saves media: the bytes, or nothing but the path
        relative = relative["path"] if relative["bytes"] is None else relative["bytes"]
    if isinstance(relative, (bytes, bytearray)):
        remedy = "save the media as files and name these"
        raise BadSampleError(f"field '{field}' holds bytes; recipes read files by path", where=name, remedy=remedy)
    if not isinstance(relative, str) or not relative.strip():
        raise BadSampleError(f"field '{field}' is {short(relative)}, no path", where=name)
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise BadSampleError(f"field '{field}' leads out of the dataset: {short(relative)}", where=name)
    if any(len(part.encode()) > 255 for part in parts.parts) or len(relative) > 4000:
        raise BadSampleError(f"field '{field}' is too long for a path: {short(relative)}", where=name)
    path = root / parts
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a name too long, links in a circle
        raise BadSampleError(f"field '{field}' is no path that can be opened: {short(relative)}", where=name) from None
    if not inside:
        raise BadSampleError(
            f"field '{field}' leads out of the dataset through a link: {short(relative)}",
            where=name,
            remedy="links out of --root are not followed: move or mount the media below it, or set --root higher up",
        )
    return path


def first_file(root: Path, places: Sequence[Any], name: str, field: str) -> Path:
    """The first of several places below the root where a media file is, or else the last of them.

    Raises:
        BadSampleError: As `media_file`.
    """
    paths = [media_file(root, place, name, field) for place in places]
    return next((path for path in paths if path.is_file()), paths[-1])


def plain_name(value: Any, name: str, field: str) -> str:
    """A name that an annotation gives to a clip, out of which a path can be made.

    Raises:
        BadSampleError: If it is anything but letters, digits, `_` and `-`.
    """
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value):
        raise BadSampleError(f"field '{field}' is {short(value)}, no plain name", where=name)
    return value
