"""Foreign values in messages and on the terminal: short, and without any character that acts on a terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from avrt.text import clean

LONGEST = 80
# Control characters but tab and newline, marks that turn the direction of writing, line separators, byte order mark.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_ACTIVE_IN_A_LINE = re.compile(rf"[\t\n{_CONTROLS}]")
_ACTIVE_IN_LINES = re.compile(rf"[{_CONTROLS}]")


def short(value: object, longest: int = LONGEST) -> str:
    """A value for a message, in at most `longest` characters on one line; of bytes only their number.

    Args:
        value: Anything that an annotation may hold.
        longest: What is longer ends in dots.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value):,} bytes"
    if isinstance(value, str):
        return repr(_cut(printable(value[: longest + 1]), longest)).replace("\\\\", "\\")
    if isinstance(value, Mapping):
        keys = ", ".join(_cut(printable(str(key)), 20) for key in list(value)[:4])
        return f"an object of {len(value)} fields ({_cut(keys, 40)})"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(short(entry, 20) for entry in value[:4])
        return _cut(f"[{inner}{', ...' if len(value) > 4 else ''}]", longest)
    return _cut(printable(_repr(value)), longest)


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with escapes, such as ``\x1b``, in place of characters that act on a terminal.

    Args:
        text: Any text, for example of a model or a data set.
        keep_lines: Leave newlines and tabs as they are.
    """
    if keep_lines:
        return _ACTIVE_IN_LINES.sub(_escape, clean(text.replace("\r\n", "\n")))
    return _ACTIVE_IN_A_LINE.sub(_escape, clean(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # Python does not spell out an integer of more than 4,300 digits
        return f"a very long {type(value).__name__}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def print_results(what: str, where: object, next_step: str | None = None) -> None:
    """The last lines of a command: where its results are, and what one would do next.

    Args:
        what: What the results are, such as `checkpoint`.
        where: Their file or folder.
        next_step: A command that can be typed as it stands, or a short sentence.
    """
    print(f"{what}: {where}", flush=True)
    if next_step is not None:
        print(f"next: {next_step}", flush=True)


def quoted(word: object) -> str:
    """A word of a command that can be typed as it stands, such as a path in what comes next."""
    return shlex.quote(printable(str(word)))
