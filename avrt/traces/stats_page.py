"""The statistics of a trace folder as tables on the terminal and as an HTML page with plots and traces to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from avrt.html.pages import render_page
from avrt.html.plots import Plot, bars, histogram
from avrt.html.replies import Piece, pieces
from avrt.terminal_tables import print_table
from avrt.traces.analysis import split_thinking
from avrt.traces.published import side_by_side
from avrt.traces.stats_samples import listed_choices

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
        print_table(console, title, head, body)


def page(stats: Mapping[str, Any]) -> str:
    """One HTML page, complete in itself."""
    samples = [_readable(sample) for sample in stats["examples"]]
    return render_page(
        "avrt.traces",
        "stats_page.html",
        s=stats,
        plots=_plots(stats),
        tables=[(f"table-{i}", *table) for i, table in enumerate(tables(stats), 1)],
        names_of=lambda found: [(name, title) for name, title, _, _ in found],
        samples=samples,
        filters=[
            {"name": name, "label": label, "options": list(dict.fromkeys(s[name] for s in samples if s[name]))}
            for name, label in (("status", "Outcome"), ("category", "Reason"), ("difficulty", "Difficulty"))
        ],
    )


def _readable(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample with its replies and its trace in pieces to read."""
    replies = []
    for reply in sample["replies"]:
        if reply["role"] == "merger":
            parts = pieces(reply["text"])
        else:
            thinking, text = split_thinking(reply["text"], reply["reasoning"])
            found = (Piece("reasoning", "Thinking", thinking), Piece("other", "Reply", text))
            parts = [piece for piece in found if piece.text]
        verdict = "" if reply["right"] is None else "right" if reply["right"] else "wrong"
        replies.append(
            {**reply, "pieces": parts, "verdict": "undecided" if verdict and not reply["letter"] else verdict}
        )
    trace = pieces(sample["trace"]) if sample["trace"] else []
    return {**sample, "listed": listed_choices(sample), "replies": replies, "trace": trace}


def _plots(stats: Mapping[str, Any]) -> list[Plot]:
    """The page's plots, without those that have nothing to show."""
    teachers = {name: t["accuracy"] for name, t in stats["teachers"].items()}
    found = [
        ("Questions kept by each strategy", stats["keep_rate"], "%"),
        ("Right answers of the teachers", teachers, "%"),
        ("Difficulty of the questions", stats["difficulty"], "samples"),
    ]
    plots = [bars(f"bars-{i}", title, values, unit=unit) for i, (title, values, unit) in enumerate(found) if values]
    splits = stats["splits"]
    if splits:
        unit = next(iter(splits.values()))["unit"]
        lengths = {name: split["histogram"] for name, split in splits.items()}
        plots.append(histogram("lengths", "Length of the reasoning", lengths, unit=unit))
        name, biggest = max(splits.items(), key=lambda item: item[1]["traces"])
        plots.append(bars("types", f"Question types, {name}", biggest["question_types"], unit="%"))
        letters = dict(sorted(biggest["answers"].items()))
        plots.append(bars("letters", f"Right letters, {name}", letters, unit="%"))
    return plots


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [str(key), *(_text(v) for v in (value.values() if isinstance(value, Mapping) else [value]))]
        for key, value in values.items()
    ]


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 1 else str(value)
