"""Plots as inline SVG: drawn by matplotlib, in the page's own font and colours, with unique ids and a text in words."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avrt.html.svg import inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDTH = 4.6
"""Inches. So narrow that a phone shows letters of 10 points at nearly that size."""
LABEL = 42
"""Characters of a label that fit into a plot's width; what is longer ends in dots, and is whole in the text."""
INK, QUIET, LINE = "#1b1f24", "#525c68", "#d0d7de"
SERIES = ("#2563a8", "#b45309", "#1f7a4d", "#7c3aed", "#b91c1c", "#0f766e", "#6b7280")
"""The page's series colours in their light form; `style.css` has both forms under the variables' names."""
_VARIABLES = {INK: "ink", QUIET: "quiet", LINE: "line", **{c: f"series-{i}" for i, c in enumerate(SERIES, 1)}}
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SETTINGS = {
    "text.parse_math": False,  # names are plain text: a dollar sign does not start a formula
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and takes the page's font
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Plot:
    """A plot for a page.

    Attributes:
        title: Its title, outside of the picture.
        svg: The picture.
        caption: How to read it.
    """

    title: str
    svg: str
    caption: str = ""


def plot(
    name: str, title: str, draw: Callable[[Axes], None], *, text: str, caption: str = "", height: float = 2.8
) -> Plot:
    """Draw a plot.

    Args:
        name: Unique on its page: the ids inside the picture start with it.
        title: The plot's title.
        draw: Draws on the axes, in the colours of this module.
        text: What the plot shows, in words, for those who do not see it.
        caption: How to read it.
        height: Inches.
    """
    return panels(name, title, [draw], text=text, caption=caption, height=height, columns=1)


def panels(
    name: str,
    title: str,
    draws: Sequence[Callable[[Axes], None]],
    *,
    text: str,
    caption: str = "",
    height: float = 1.7,
    columns: int = 2,
) -> Plot:
    """Draw small plots side by side with one vertical axis for all, see `plot`.

    Args:
        name: See `plot`.
        title: See `plot`.
        draws: One for each panel, at least one.
        text: See `plot`.
        caption: See `plot`.
        height: Inches of a row of panels.
        columns: Panels in a row.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    written = io.StringIO()
    # A character without a glyph in matplotlib's font is drawn by the browser in another one.
    with rc_context(_SETTINGS), warnings.catch_warnings(action="ignore"):
        rows = -(-len(draws) // columns)
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained", facecolor="none")
        every = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes, draw in zip(every, draws, strict=False):
            axes.set_facecolor("none")
            draw(axes)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in every[len(draws) :]:
            axes.set_axis_off()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return Plot(title, inline(written.getvalue(), name, f"{title}. {text}", _VARIABLES), caption)


def shortened(text: str, longest: int = LABEL) -> str:
    """A label that fits and that XML can hold; a longer one ends in dots."""
    text = " ".join(_NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text).split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def bars(name: str, title: str, values: Mapping[str, float], *, unit: str, caption: str = "") -> Plot:
    """Horizontal bars, each with its label above it and its value behind it.

    Args:
        name: See `plot`.
        title: See `plot`.
        values: Label -> value.
        unit: `%`, for an axis from 0 to 100, or what is counted.
        caption: See `plot`.
    """

    def draw(axes: Axes) -> None:
        rows = list(range(len(values)))[::-1]
        drawn = axes.barh(rows, list(values.values()), height=0.42, color=SERIES[0])
        axes.bar_label(drawn, fmt="{:.1f}" if unit == "%" else "{:g}", padding=3)
        most = 100 if unit == "%" else max(1, *values.values())
        for row, label in zip(rows, values, strict=True):
            axes.text(0, row + 0.27, shortened(label), va="bottom")
        axes.set(xlim=(0, most if unit == "%" else most * 1.12), ylim=(-0.5, len(values) - 0.3), yticks=[])
        if unit != "%":
            _whole_numbers(axes.xaxis)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(unit)

    text = "; ".join(f"{label}: {value:g} {unit}" for label, value in values.items())
    return plot(name, title, draw, text=text, caption=caption, height=0.75 + 0.42 * len(values))


def histogram(name: str, title: str, groups: Mapping[str, Sequence[float]], *, unit: str) -> Plot:
    """The distribution of values in each group, in % of the group.

    Args:
        name: See `plot`.
        title: See `plot`.
        groups: Name -> values; at least one value in all.
        unit: The values' unit.
    """
    from statistics import median

    def draw(axes: Axes) -> None:
        every = [value for values in groups.values() for value in values]
        low, high = min(every), max(every)
        # Whole numbers: bins of a whole width whose edges lie between two of them.
        width = max(1, -(-int(high - low + 1) // 25))
        edges = [low - 0.5 + width * i for i in range(int((high - low) // width) + 2)]
        for (group, values), colour in zip(groups.items(), SERIES, strict=False):
            shares, label = [100 / len(values)] * len(values), shortened(group, 24)
            axes.hist(values, bins=edges, weights=shares, histtype="stepfilled", alpha=0.25, color=colour)
            axes.hist(values, bins=edges, weights=shares, histtype="step", color=colour, linewidth=1.5, label=label)
        axes.set(xlabel=unit, ylabel="traces, %", ylim=(0, None), xlim=(max(0, edges[0] - width), edges[-1] + width))
        _whole_numbers(axes.xaxis)
        axes.legend(frameon=False, fontsize=10)

    text = "; ".join(
        f"{label}: {len(v)} traces of {min(v):g} to {max(v):g} {unit}, median {median(v):g}"
        for label, v in groups.items()
        if v
    )
    return plot(name, title, draw, text=text)


def curves(name: str, title: str, lines: Mapping[str, Sequence[tuple[int, float]]], *, unit: str) -> Plot:
    """Curves over optimizer steps; the vertical axis starts at 0, or below where values are negative.

    Args:
        name: See `plot`.
        title: See `plot`.
        lines: Name -> (step, value), in order.
        unit: The values' unit.
    """

    def draw(axes: Axes) -> None:
        values = [value for points in lines.values() for _, value in points]
        low, high = min(0.0, *values), max(0.0, *values)
        for (label, points), colour in zip(lines.items(), SERIES * len(lines), strict=False):
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                color=colour,
                label=shortened(label, 24),
                zorder=3,
                clip_on=False,
            )
        # never a scale that blows up the noise of a constant
        axes.set(xlabel="optimizer step", ylabel=unit, ylim=(low * 1.08, max(high * 1.08, low + 1)))
        _whole_numbers(axes.xaxis)
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)

    parts = (
        f"{label}: {points[0][1]:.3g} at step {points[0][0]}, {points[-1][1]:.3g} at step {points[-1][0]}"
        for label, points in lines.items()
        if points
    )
    return plot(name, title, draw, text="; ".join(parts), height=2.8 + 0.2 * (len(lines) // 2))


def _whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
