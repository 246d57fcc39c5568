"""The statistics of a trace folder as tables on the terminal and as an HTML page with plots."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avrt.data.sample import LETTERS
from avrt.messages import printable
from avrt.text import clean
from avrt.traces.published import side_by_side

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Traces: {{ s.samples }} samples</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } td, th { padding: .2rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f4f6f8; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.example { border-left: 3px solid #4878a8; padding-left: .8rem; overflow-wrap: anywhere; white-space: pre-line; }
svg { width: 100%; height: auto; } h2 { margin-top: 2rem; }
</style></head><body>
<h1>Reasoning traces</h1>
<p>{{ s.samples }} samples, run {{ s.run }}.</p>
<div class="plots">{% for plot in plots %}<div>{{ plot | safe }}</div>{% endfor %}</div>
{% for title, head, rows in tables %}
<h2>{{ title }}</h2>
<table><tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
{% if s.examples %}<h2>Examples</h2>{% endif %}
{% for e in s.examples %}
<h3>{{ e.id }}</h3>
<p>{{ e.question }}<br>{% for choice in e.choices %}({{ letters[loop.index0] }}) {{ choice }}<br>{% endfor %}
right: {{ e.answer }}; difficulty: {{ e.difficulty }}</p>
<p class="example">{{ e.trace }}</p>
{% endfor %}
</body></html>
"""
Tables = list[tuple[str, list[str], list[list[str]]]]


def tables(stats: Mapping[str, Any]) -> Tables:
    """(title, head, rows) of every table that has rows."""
    found: Tables = [
        ("Outcomes", ["status", "samples"], _rows(stats["outcomes"])),
        ("Why samples were not kept", ["reason", "samples"], _rows(stats["reasons"])),
        ("Difficulty", ["difficulty", "samples"], _rows(stats["difficulty"])),
        ("Teachers", ["teacher", "questions", "right %", "undecided %"], _rows(stats["teachers"])),
        ("Keep rate of each strategy", ["strategy", "kept %"], _rows(stats["keep_rate"])),
    ]
    for pair, counts in stats["agreement"].items():
        found.append((f"Agreement: {pair}", ["verdicts", "samples"], _rows(counts)))
    if splits := stats["splits"]:
        found.append(("Traces by split, beside AVRT's (Tables 2 and 9)", *side_by_side(splits)))
    if clips := stats.get("clips"):
        found.append(("Durations of kept clips, s", ["", "s"], _rows(clips["duration"])))
        found.append(("Resolutions of kept clips, %", ["pixels", "%"], _rows(clips["resolutions"])))
    head = ["calls", "all", "done", "failed", "retries", "s", "prompt tokens", "reply tokens", "cut off"]
    found.append(("Calls", head, _rows(stats["calls"])))
    return [table for table in found if table[2]]


def show(stats: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    for title, head, body in tables(stats):
        table = Table(title=Text(printable(title), "table.title"), title_justify="left")
        for i, name in enumerate(head):
            table.add_column(Text(printable(name)), justify="left" if i == 0 else "right")
        for row in body:
            # rich takes square brackets in a plain string for markup
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print(table)


def page(stats: Mapping[str, Any]) -> str:
    """One HTML page, complete in itself."""
    import matplotlib

    environment = jinja2.Environment(autoescape=True)
    # A dollar sign in a question's type begins no formula, and a character without a glyph is told by its box.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        plots = _plots(stats)
    whole = environment.from_string(PAGE).render(s=stats, plots=plots, tables=tables(stats), letters=LETTERS)
    return clean(whole)


def _plots(stats: Mapping[str, Any]) -> list[str]:
    plots = [
        _bars("Share of questions kept, by strategy (%)", stats["keep_rate"]),
        _bars("Teachers: right (%)", {name: t["accuracy"] for name, t in stats["teachers"].items()}),
        _bars("Difficulty (samples)", stats["difficulty"]),
    ]
    splits = stats["splits"]
    if splits:
        unit = next(iter(splits.values()))["unit"]
        plots.append(_histogram(f"Length of the reasoning ({unit})", {n: s["histogram"] for n, s in splits.items()}))
        biggest = max(splits.values(), key=lambda s: s["traces"])
        plots.append(_bars("Question types (%)", biggest["question_types"]))
        plots.append(_bars("Right letters (%)", dict(sorted(biggest["answers"].items()))))
    return [plot for plot in plots if plot]


def _bars(title: str, values: Mapping[str, float]) -> str:
    if not values:
        return ""
    figure, axes = _figure(title)
    bars = axes.barh(list(values)[::-1], list(values.values())[::-1], color="#4878a8")
    axes.bar_label(bars, padding=3)
    axes.margins(x=0.15)
    return _svg(figure)


def _histogram(title: str, groups: Mapping[str, Sequence[int]]) -> str:
    figure, axes = _figure(title)
    for (name, values), color in zip(groups.items(), ("#4878a8", "#d1733f"), strict=False):
        axes.hist(values, bins=30, density=True, alpha=0.6, label=name, color=color)
    axes.legend(frameon=False)
    return _svg(figure)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [str(key), *(_text(v) for v in (value.values() if isinstance(value, Mapping) else [value]))]
        for key, value in values.items()
    ]


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 1 else str(value)
