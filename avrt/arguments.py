"""Command-line parsing with one-line errors: the field, what is wrong with it, and how to list the fields."""

from __future__ import annotations

import ast
import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from avrt.text import did_you_mean

_TELLING = re.compile(r"not expected|unrecognized|not accepted|required|Expected|invalid|No such|does not exist")
_LITERAL = re.compile(r"(?:an? )?(?:typing\.)?Literal(\[[^][]*\])")
_UNKNOWN = re.compile(r"unrecognized arguments: --([\w.-]+)")


class OneLineErrors(ArgumentParser):
    """A parser that prints one line and exits with status 2, without its usage; options are written in full.

    Args:
        *args: As for `ArgumentParser`.
        **kwargs: As for `ArgumentParser`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A shortened name would be another option, or none, as soon as one with the same beginning is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit."""
        command = " ".join(["avrt", *[word for word in sys.argv[1:2] if not word.startswith("-")]])
        if self.prog.startswith("avrt "):  # a subcommand of a subcommand has its own fields
            command = self.prog
        told = shorten(message)
        if (unknown := _UNKNOWN.search(told)) and (nearest := self._nearest(unknown[1])):
            told = f"no such option: --{unknown[1]} ({nearest})"
        sys.stderr.write(f"avrt: error: {told} (see: {command} --help)\n")
        sys.exit(2)

    def _nearest(self, name: str) -> str | None:
        return did_you_mean(f"--{name}", [option for option in self._option_string_actions if option.startswith("--")])


def shorten(message: str) -> str:
    """The innermost useful line of a jsonargparse message, after the name of its field."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    telling = [line for line in lines if _TELLING.search(line) and "Does not validate against any" not in line]
    chosen = telling[-1] if telling else (lines[-1] if lines else message)
    key = re.search(r"Parser key \"([^\"]+)\"", message)
    plain = _LITERAL.sub(_choices, chosen)
    return f"{key[1]}: {plain}" if key and key[1] not in plain else plain


def _choices(match: re.Match[str]) -> str:
    """The choices of a Literal type, as one would type them."""
    try:
        values = ast.literal_eval(match[1])
    except (ValueError, SyntaxError):
        return match[0]
    return "one of: " + ", ".join(str(value) for value in values)
