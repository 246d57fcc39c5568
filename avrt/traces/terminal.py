"""Texts of models and data sets on a terminal: nothing in them may move its cursor, its title or its colours."""

from __future__ import annotations

import re

from avrt.text import clean

# Control characters but for tab and newline, and marks that turn the direction of writing.
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def inert(text: str) -> str:
    """The text with each character that a terminal acts upon spelled as an escape; lines stay lines."""
    return _ACTIVE.sub(_escape, clean(text.replace("\r\n", "\n")))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
