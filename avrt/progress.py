"""The progress of everything that takes long: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

LINE_SECONDS = 30.0
BAR_SECONDS = 0.1


class Pace:
    """How fast a count grows since it was first seen, and how long the rest takes at that pace.

    A resumed run begins with a count that says nothing about its speed, and the first of a run's steps often compiles.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float, float] | None = None
        self.rate: float | None = None
        self.left: float | None = None

    def note(self, count: int, done: float) -> None:
        """Take the new count.

        Args:
            count: What has been reached; `rate` is how much of it comes in a second.
            done: Which share of everything that is, from 0 to 1; `left` is how many seconds the rest takes.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (count, done, now)
            return
        first_count, first_done, begun = self._first
        seconds = max(now - begun, 1e-9)
        if count > first_count:
            self.rate = (count - first_count) / seconds
        if done > first_done:
            self.left = max(0.0, 1 - done) * seconds / (done - first_done)

    def told(self, unit: str = "") -> str:
        """Rate and time left in words; nothing where they are not known yet."""
        parts = []
        if self.rate is not None:
            slow = self.rate < 0.1
            rate = f"{1 / self.rate:,.0f} s" if slow else f"{self.rate:,.{2 if self.rate < 1 else 1}f}"
            unit_of_rate = f" per {unit or 'one'}" if slow else f" {unit}s/s" if unit else "/s"
            parts.append(rate + unit_of_rate)
        if self.left is not None:
            parts.append(f"about {duration(self.left)} left")
        return ", ".join(parts)


class ProgressDisplay:
    """Shows on stderr how far a count is, how fast it grows, and the time left; a context manager.

    Args:
        total: What the count reaches at the end; None if nobody knows.
        unit: What is counted.
        shown: False shows nothing, as in all but one of several workers.
        numbered: Count as in `step 3 of 9`, from the first to the last, rather than `3 of 9 samples` now and then.
    """

    def __init__(self, total: int | None, unit: str, *, shown: bool = True, numbered: bool = False) -> None:
        self._total = total
        self._unit = unit
        self._shown = shown
        self._numbered = numbered
        self._pace = Pace()
        self._begun = self._printed = time.monotonic()
        self._last: int | None = None
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.fields[head]}"), BarColumn(bar_width=None), TimeElapsedColumn())
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(*columns, text, console=Console(stderr=True), expand=True)
            self._task = self._bar.add_task("", total=1.0, head=self._head(0))

    def __enter__(self) -> ProgressDisplay:
        """Show the bar."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last count and leave the terminal as it was."""
        self.stop()

    def start(self) -> None:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, count: int, details: str = "", done: float | None = None, left: float | None = None) -> None:
        """Take the new count.

        Args:
            count: How far the command is.
            details: What else to say of it.
            done: Which share of everything that is, where it is not the count's of the total.
            left: Seconds that the rest takes, where the caller knows that better than the pace tells.
        """
        first, self._last = self._last is None, count
        share = min(1.0, done if done is not None else count / self._total if self._total else 0.0)
        self._pace.note(count, share)
        now, ends = time.monotonic(), share >= 1
        if self._bar is not None:
            if now - self._printed >= BAR_SECONDS or ends or first:
                self._printed = now
                told = self._told(details, left, ends=ends)
                self._bar.update(self._task, completed=share, description=told, head=self._head(count))
            return
        due = now - self._printed >= LINE_SECONDS and not first
        if self._shown and (due or (self._numbered and (first or ends))):
            self._printed = now
            told = self._told(details, left, ends=ends)
            print(f"{self._head(count)}, {told}" if told else self._head(count), file=sys.stderr, flush=True)

    def meanwhile(self, text: str) -> None:
        """Say what happens between two counts."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self._shown:
            return
        self._printed = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def _head(self, count: int) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._unit} {count:,}{of}" if self._numbered else f"{count:,}{of} {self._unit}"

    def _told(self, details: str, left: float | None, *, ends: bool) -> str:
        pace = self._pace.told(self._unit if self._numbered else "")
        if left is not None:
            pace = f"about {duration(left)} left"
        if ends:
            pace = f"took {duration(time.monotonic() - self._begun)}"
        return (", " if self._numbered else "; ").join(filter(None, (pace, details)))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
