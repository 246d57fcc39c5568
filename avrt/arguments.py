"""Command-line parsing with one-line errors: the field, what is wrong with it, and how to list the fields."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

_TELLING = re.compile(r"not expected|unrecognized|not accepted|required|Expected|invalid|No such|does not exist")


class OneLineErrors(ArgumentParser):
    """A parser that prints one line and exits with status 2, without its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit."""
        command = " ".join(["avrt", *[word for word in sys.argv[1:2] if not word.startswith("-")]])
        if self.prog.startswith("avrt "):  # a subcommand of a subcommand has its own fields
            command = self.prog
        sys.stderr.write(f"avrt: error: {shorten(message)} (see: {command} --help)\n")
        sys.exit(2)


def shorten(message: str) -> str:
    """The innermost useful line of a jsonargparse message, after the name of its field."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    telling = [line for line in lines if _TELLING.search(line) and "Does not validate against any" not in line]
    chosen = telling[-1] if telling else (lines[-1] if lines else message)
    key = re.search(r"Parser key \"([^\"]+)\"", message)
    return f"{key[1]}: {chosen}" if key and key[1] not in chosen else chosen
