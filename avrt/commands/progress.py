"""The progress of a long command: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30.0
BAR_SECONDS = 0.1


class ProgressDisplay:
    """Shows on stderr how far a count is, how fast it grows, and the time left; a context manager.

    Args:
        total: What the count reaches at the end.
        unit: What is counted.
        shown: False shows nothing, as in all but one of several workers.
    """

    def __init__(self, total: int, unit: str, *, shown: bool = True) -> None:
        self._total = total
        self._unit = unit
        self._shown = shown
        self._first: int | None = None
        self._begun = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> ProgressDisplay:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last count and leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, count: int, details: str = "") -> None:
        """Take the new count.

        Args:
            count: How far the command is.
            details: What else to say of it.
        """
        now = time.monotonic()
        if self._bar is not None:
            if now - self._printed >= BAR_SECONDS or count >= self._total:
                self._printed = now
                self._bar.update(self._task, completed=count, description=details)
            return
        if self._first is None:  # a resumed run begins with a count that says nothing about its speed
            self._first, self._begun = count, now
        if self._shown and now - self._printed >= LINE_SECONDS and count > self._first:
            self._printed = now
            rate = (count - self._first) / (now - self._begun)
            left = _duration((self._total - count) / rate)
            told = f"{count:,} of {self._total:,} {self._unit}, {rate:.1f}/s, about {left} left"
            print(f"{told}; {details}" if details else told, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
