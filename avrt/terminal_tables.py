"""Tables on a terminal of any width: nothing is cut; what is too wide is continued below, and long texts are folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avrt.messages import printable

FIRST, FOLDED = 34, 22
"""Where a table is too wide, its first column and its others are folded to so many characters; an estimate with its
interval, such as `100.0 [100.0, 100.0],` still stands on one line."""
_NAME = 14  # characters of a column's name that is not folded
_BORDER = 3


def print_table(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in several parts where the console is too narrow for all columns; each has the first column.

    Args:
        console: Where to print.
        title: Stands above the table.
        head: Column names.
        rows: Cells; as many per row as there are columns.
    """
    head, rows = [printable(cell) for cell in head], [[printable(cell) for cell in row] for row in rows]
    widths = _widths(head, rows, console.width)
    console.print(Text(printable(title), "bold"), soft_wrap=False)
    for columns in _parts(widths, console.width):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for i in columns:
            table.add_column(
                Text(head[i]), justify="left" if i == 0 else "right", width=widths[i], no_wrap=False, overflow="fold"
            )
        for row in rows:
            # rich takes square brackets in a plain string for markup
            table.add_row(*(Text(row[column]) for column in columns))
        console.print(table)
        console.print()


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> list[int]:
    """The width of each column."""
    found = []
    for i, name in enumerate(head):
        word = max((cell_len(part) for part in name.split()), default=0)
        named = cell_len(name) if cell_len(name) <= _NAME else max(word, (cell_len(name) + 1) // 2)
        found.append(max(1, named, *(cell_len(row[i]) for row in rows)))
    if sum(found) + _BORDER * (len(found) - 1) <= most:
        return found
    first = min(FIRST, most * 2 // 5)
    return [min(width, first if i == 0 else FOLDED, most - _BORDER) for i, width in enumerate(found)]


def _parts(widths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The columns of each part, as many as fit beside the first."""
    part, used = [0], widths[0]
    for column in range(1, len(widths)):
        if len(part) > 1 and used + _BORDER + widths[column] > most:
            yield part
            part, used = [0], widths[0]
        part.append(column)
        used += _BORDER + widths[column]
    yield part
