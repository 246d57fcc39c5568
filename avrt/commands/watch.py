"""Progress of a long command: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30.0


class Watch:
    """Tell how far a count has come, how fast it goes, and when it will be done; a context manager.

    Args:
        total: What it will reach.
        unit: What is counted.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._first: int | None = None
        self._begun = self._told = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(unit, total=total)

    def __enter__(self) -> Watch:
        """Start."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def reached(self, count: int) -> None:
        """The count is now this."""
        if self._bar is not None:
            self._bar.update(self._task, completed=count)
            return
        now = time.monotonic()
        if self._first is None:  # what an earlier run did says nothing about the speed of this one
            self._first, self._begun = count, now
        if now - self._told >= LINE_SECONDS and count > self._first:
            self._told = now
            rate = (count - self._first) / (now - self._begun)
            left = (self._total - count) / rate
            print(
                f"{count:,} of {self._total:,} {self._unit}, {rate:.1f}/s, about {_span(left)} left",
                file=sys.stderr,
                flush=True,
            )


def _span(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
