"""Tables on the terminal: at 80 columns no figure is cut or broken, and nothing is left out."""

import io

import pytest
from rich.console import Console

from avrt.terminal_tables import print_table

HEAD = ["run", "asked by", "headline", "strict", "a long name of a column", "questions", "shard mismatches"]
FIGURES = ["100.0 [100.0, 100.0], strict rule", "12.5 [9.3, 15.0]", "0.0 [0.0, 0.0], nemo_rl rule", "17,208", "a;" * 50]
ROWS = [["a student with a rather long name / dailyomni / av", "avrt", *FIGURES], ["[b]", "authors", *FIGURES]]


def printed(width, head=HEAD, rows=ROWS):
    out = io.StringIO()
    print_table(Console(file=out, width=width), "A [title]", head, rows)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 140, 400])
def test_nothing_is_cut(width):
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for figure in ("100.0 [100.0, 100.0]", "12.5 [9.3, 15.0]", "17,208"):
        assert text.count(figure) == 2
    assert text.count(";") == 2 * 50
    assert text.startswith("A [title]")
    # Every part has the first column.
    parts = text.split("\n\n")[:-1]
    assert all("[b]" in part for part in parts)
    assert len(parts) == {60: 5, 80: 3, 140: 2, 400: 1}[width]


def test_a_table_that_fits_is_left_alone():
    lines = printed(40, ["x", "y"], [["a", "1"]]).splitlines()
    assert [line.strip() for line in lines[1:4:2]] == ["x   y", "a   1"]
