"""The report's plots of accuracy: one for each benchmark, with intervals and chance, and one by difficulty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avrt.evaluation.benchmark_runs import BenchmarkRun, by_benchmark
from avrt.evaluation.protocol import MASKS
from avrt.evaluation.result import DIFFICULTIES, DIFFICULTY
from avrt.evaluation.statistics import Estimate
from avrt.html.plots import INK, QUIET, SERIES, Plot, plot, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.26
"""Inches from row to row."""


@dataclass(frozen=True)
class _Bar:
    """One row of a plot: what it is, its accuracy, and its colour."""

    label: str
    accuracy: Estimate
    colour: str


def accuracy_plots(runs: Sequence[BenchmarkRun]) -> list[Plot]:
    """Accuracy of each student under each mask, a plot for each benchmark."""
    found = []
    for number, (benchmark, same) in enumerate(by_benchmark(runs).items(), 1):
        rows: dict[str, list[_Bar]] = {}
        for run in same:
            bar = _Bar(run.result.mask, run.result.accuracy, _colour(list(MASKS), run.result.mask))
            rows.setdefault(run.subject, []).append(bar)
        found.append(_plot(f"accuracy-{number}", benchmark, rows, chance(same), "Each by its own rule."))
    return found


def difficulty_plots(runs: Sequence[BenchmarkRun]) -> list[Plot]:
    """Accuracy by difficulty, a plot for each benchmark whose questions have one; the mask of most senses alone."""
    found = []
    for number, (benchmark, same) in enumerate(by_benchmark(runs).items(), 1):
        labelled = [run for run in same if run.result.groups.get(DIFFICULTY)]
        rows = {
            run.subject: [
                _Bar(level, Estimate.from_record(parts[level]), _colour(DIFFICULTIES, level))
                for level in (*DIFFICULTIES, *(name for name in parts if name not in DIFFICULTIES))
                if level in parts
            ]
            for run in labelled
            if run.result.mask == labelled[0].result.mask and (parts := run.result.groups[DIFFICULTY])
        }
        if rows:
            caption = "Easy: both teachers are right; medium: one; hard: none."
            mask = labelled[0].result.mask
            found.append(_plot(f"difficulty-{number}", f"{benchmark}, {mask}, by difficulty", rows, None, caption))
    return found


def chance(runs: Sequence[BenchmarkRun]) -> float | None:
    """The accuracy of guessing, 0 to 1; None where a question has no choices or several right ones."""
    known = [p for run in runs for p in run.known]
    if not known or any(p.several or not p.choices for p in known):
        return None
    return sum(1 / len(p.choices) for p in known) / len(known)


def _plot(name: str, title: str, rows: dict[str, list[_Bar]], guessed: float | None, caption: str) -> Plot:
    """Rows with a point and its interval, under the name of each student."""
    lines = sum(len(bars) + 1.2 for bars in rows.values())

    def draw(axes: Axes) -> None:
        y, ticks = 0.0, []
        for subject, bars in rows.items():
            axes.text(0, y, shortened(subject, 38), va="center", fontweight="bold")
            for bar in bars:
                y += 1
                ticks.append((y, shortened(bar.label, 14)))
                if not math.isnan(bar.accuracy.mean):
                    low, mean, high = (100 * v for v in (bar.accuracy.low, bar.accuracy.mean, bar.accuracy.high))
                    axes.barh(y, mean, height=0.62, color=bar.colour, alpha=0.3)
                    axes.plot([low, high], [y, y], color=bar.colour, linewidth=1.6)
                    axes.plot([mean], [y], "o", color=bar.colour, markersize=4.5)
                    axes.text(102, y, f"{mean:.1f}", va="center", clip_on=False)
            y += 1.2
        if guessed is not None:
            axes.axvline(100 * guessed, color=QUIET, linestyle="--", linewidth=1)
            axes.text(100 * guessed, -0.75, f"chance {100 * guessed:.1f}", ha="center", va="bottom", color=INK)
        axes.set(xlim=(0, 100), ylim=(lines - 0.6, -0.7), xlabel="accuracy, %", xticks=range(0, 101, 20))
        axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    text = "; ".join(f"{subject}, {b.label}: {b.accuracy.percent()} %" for subject, bars in rows.items() for b in bars)
    if guessed is not None:
        text += f"; chance: {100 * guessed:.1f} %"
        caption += " Dashed: guessing."
    return plot(
        name, title, draw, text=text, caption=f"Points with 95 % intervals. {caption}", height=0.85 + ROW * lines
    )


def _colour(order: Sequence[str], name: str) -> str:
    place = list(order).index(name) if name in order else len(SERIES) - 1
    return SERIES[place % len(SERIES)]
