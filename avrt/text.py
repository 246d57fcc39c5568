"""Text that can be written to any file, and JSON lines, so that one odd character stops nothing.

Half a surrogate pair (which JSON may spell as an escape) and NUL are invalid in UTF-8 files, SQLite, Parquet or HTML.
U+2028, U+2029 and U+0085 end a line for `str.splitlines`, but not in JSON lines, where only a newline does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


def clean(text: str) -> str:
    """The text with U+FFFD for each NUL and each half of a surrogate pair; two matching halves become one character."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", REPLACEMENT)


def clean_all(value: Any) -> Any:
    """A JSON-like value with all its texts and keys cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean_all(key): clean_all(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_all(inner) for inner in value]
    return value


def to_json(value: Any, **settings: Any) -> str:
    """JSON that can always be written as UTF-8; non-ASCII characters stay readable.

    Args:
        value: Any value that `json.dumps` takes.
        **settings: Further arguments of `json.dumps`, such as `indent`.
    """
    return clean(json.dumps(value, ensure_ascii=False, **settings))


def json_lines(data: bytes | str) -> Iterator[tuple[int, Any]]:
    """The number (from 1) and the value of each line that is not blank; a byte order mark is skipped.

    Raises:
        ValueError: If the bytes are not UTF-8, or a line is not JSON; the message names the line.
    """
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix(_BOM)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None


def read_json_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8, or a line is not JSON.
    """
    return [value for _, value in json_lines(path.read_bytes())]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question for a remedy, such as "did you mean grpo.yaml?", or None if no known name is like this one.

    Args:
        name: What was written.
        known: The names that there are.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]}?" if close else None
