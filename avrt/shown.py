"""How values of strangers are shown in messages: short, on one line, and without anything that moves a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from avrt.text import clean

LONGEST = 80
# control characters, directions of writing and line separators: all that a terminal or an editor acts upon
_ACTIVE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def short(value: Any, longest: int = LONGEST) -> str:
    """A value as it stands in a message, in at most `longest` characters; of bytes only their number.

    Args:
        value: Anything that an annotation may hold.
        longest: Longer ones are cut, with dots for the rest.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value):,} bytes"
    if isinstance(value, str):
        return repr(_cut(inert(value[: longest + 1]), longest)).replace("\\\\", "\\")
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields ({_cut(', '.join(_key(key) for key in list(value)[:4]), 40)})"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(short(entry, 20) for entry in value[:4])
        return _cut(f"[{inner}{', ...' if len(value) > 4 else ''}]", longest)
    return _cut(inert(_digits(value)), longest)


def inert(text: str) -> str:
    """The text with each character that a terminal acts upon spelled as an escape."""
    return _ACTIVE.sub(_escape, clean(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _key(key: Any) -> str:
    return _cut(inert(str(key)), 20)


def _digits(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python spells out
        return f"a very long {type(value).__name__}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
