"""Tables of results as data, and their Markdown, CSV and LaTeX forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.evaluation.statistics import Estimate
from avrt.text import clean

_LATEX = {
    **{mark: f"\\{mark}" for mark in "%&_#${}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        id: The stem of its files' names.
        title: Its title.
        head: Column names.
        rows: Cells; as many per row as there are columns.
        note: How to read it.
        short: A shorter title for lists of contents; empty where the title is short.
    """

    id: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    short: str = ""

    def markdown(self) -> str:
        """As Markdown, with its title."""
        lines = [f"## {self.title}", "", _row(self.head), _row(["---"] * len(self.head))]
        lines += [_row(row) for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

    def csv(self) -> str:
        """As CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([one_line(cell) for cell in row] for row in (self.head, *self.rows))
        return text.getvalue()

    def latex(self) -> str:
        """As a LaTeX table, booktabs style."""
        columns = "l" + "r" * (len(self.head) - 1)
        body = "\n".join(" & ".join(_latex(cell) for cell in row) + r" \\" for row in self.rows)
        note = f"\n\\smallskip\n{{\\small {_latex(self.note)}}}\n" if self.note else ""
        head = " & ".join(_latex(cell) for cell in self.head) + r" \\"
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(self.title)}}}\n\\begin{{tabular}}{{{columns}}}\n"
            f"\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n{note}\\end{{table}}\n"
        )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(cell, cells)) + " |"


def cell(text: str) -> str:
    """The text as a cell of a Markdown table."""
    return one_line(text).replace("|", r"\|")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """The text on one line, without characters that some file formats cannot hold."""
    return " ".join(clean(text).split())


def with_rule(accuracy: Estimate, rule: str) -> str:
    """An accuracy with its interval and the name of its rule."""
    return f"{accuracy.percent()}, {rule} rule"
