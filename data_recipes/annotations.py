"""Shared parts of recipes: rows become questions or errors that name them; ids; their plain values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from avrt.data.shards.source import SourceItem
from avrt.data_recipes.media_paths import OutsideRootError, outside
from avrt.data_recipes.options import Repeated
from avrt.errors import BadSampleError
from avrt.messages import LONGEST, printable, short
from avrt.text import clean_all

Row = Mapping[str, Any]
_PLAIN_NAME = re.compile(r"[\w-]+")
CLEANED = "half a surrogate pair or NUL in its texts became U+FFFD"


def items(
    rows: Sequence[Any],
    prefix: str,
    convert: Callable[[str, Row], SourceItem],
    by: str,
    names: Sequence[str] | None = None,
) -> Iterator[SourceItem | BadSampleError]:
    """Convert each row; rows about one clip follow each other, so that it is decoded once.

    If rows repeat an id and say the same, the first is used; if they differ, none is.

    Args:
        rows: The rows of the annotation.
        prefix: A row's name is this prefix and its number.
        convert: Makes an item from a name and a row; may raise the errors that rows of another shape cause.
        by: The field that names the clip.
        names: Names of the rows in place of prefix and number.
    """

    def clip(pair: tuple[int, Any]) -> tuple[str, int]:
        value = pair[1].get(by) if isinstance(pair[1], Mapping) else None
        return (value if isinstance(value, str) else "" if value is None else short(value), pair[0])

    found: list[tuple[str, SourceItem | BadSampleError]] = []
    first: dict[str, tuple[str, SourceItem]] = {}
    contested: dict[str, str] = {}
    for number, row in sorted(enumerate(rows), key=clip):
        name = f"{prefix}-{number:05d}" if names is None else names[number]
        made = one_item(name, row, convert)
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
                f"id {short(made.sample.id)} occurs again with other contents ({pair}); none is used", where=name
            )
        elif first[made.sample.id][0] != name:
            yield BadSampleError(f"repeats {first[made.sample.id][0]}, which is used", where=name)
        else:
            yield made


def one_item(name: str, row: Any, convert: Callable[[str, Row], SourceItem]) -> SourceItem | BadSampleError:
    """Convert one row, or say why it cannot be used.

    Args:
        name: The row's name.
        row: The row.
        convert: Makes an item from a name and a row; may raise the errors that rows of another shape cause.
    """
    try:
        if isinstance(row, BadSampleError):
            raise row
        if not isinstance(row, Mapping):
            raise BadSampleError(f"is a {type(row).__name__}, not an object", remedy="write a row as {field: value}")
        if isinstance(row, Repeated):
            raise BadSampleError(f"has the field {short(row.repeated)} twice", remedy="remove one")
        if not _odd(row):
            return convert(name, row)
        made = convert(name, clean_all(row))
        return replace(made, notes=(CLEANED, *made.notes))
    except OutsideRootError as error:
        return outside(error.what, name, error.folder)
    except BadSampleError as error:
        return BadSampleError(error.what, where=name, remedy=error.remedy)
    except KeyError as error:
        return BadSampleError(f"field {error} is missing", where=name)
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        return BadSampleError(f"not a question: {printable(str(error))[:LONGEST]}", where=name)


def _said(item: SourceItem) -> tuple[Any, ...]:
    """The parts in which two rows with one id must agree."""
    sample = item.sample
    return sample.question, sample.choices, sample.answer, sample.relation, sample.trace, item.files


def _odd(value: Any) -> bool:
    """Whether a text in a value has half of a surrogate pair or NUL."""
    if isinstance(value, str):
        return "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value))
    if isinstance(value, Mapping):
        return any(_odd(key) or _odd(inner) for key, inner in value.items() if isinstance(key, str))
    return isinstance(value, (list, tuple)) and any(map(_odd, value))


def row_id(row: Row, field: str, name: str) -> str:
    """A row's own id as text.

    Raises:
        BadSampleError: If it is neither a text nor a number.
    """
    value = row[field]
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and float(value).is_integer():
        value = str(int(value))
    elif number:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadSampleError(f"field '{field}' is {short(value)}, needs a text or a number", where=name)
    return value


def plain_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are texts, numbers, booleans or null; numbers that are not finite become null."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            kept[key] = None
        elif value is None or isinstance(value, (str, int, float, bool)):
            kept[key] = value
    return kept


def json_field(row: Row, field: str, name: str) -> Any:
    """The value of a field that holds JSON as text.

    Raises:
        BadSampleError: If it is not JSON.
    """
    try:
        return json.loads(row[field])
    except (TypeError, ValueError, RecursionError):
        raise BadSampleError(f"field '{field}' is {short(row[field])}, not JSON", where=name) from None


def plain_name(value: Any, name: str, field: str) -> str:
    """The name of a clip in an annotation, checked so that it can be part of a path.

    Raises:
        BadSampleError: If it has characters other than letters, digits, `_` and `-`.
    """
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value):
        raise BadSampleError(
            f"field '{field}' is {short(value)}, needs a plain name of letters, digits, _ and -", where=name
        )
    return value
