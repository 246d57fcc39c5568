"""The HTML report, one self-contained page: plots, tables, and answers beside the clips that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from avrt.data.sample import LETTERS
from avrt.evaluation.benchmark_runs import BenchmarkRun, by_benchmark
from avrt.evaluation.questions import Question, answer_of, media_of
from avrt.evaluation.tables import Table
from avrt.html import render_template, svg_plot
from avrt.packaged import packaged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[tuple[int, float]]]


def render(
    runs: Sequence[BenchmarkRun],
    tables: Sequence[Table],
    curves: Mapping[str, Curves],
    examples: int,
    questions: Sequence[Question] = (),
) -> str:
    """Render the report.

    Args:
        runs: The runs.
        tables: The tables about them.
        curves: Title -> name -> (step, value) of training runs.
        examples: How many questions of each benchmark to show with their clip.
        questions: Questions to show under several masks side by side.
    """
    source = packaged("avrt.evaluation", "html_report.html").read_text(encoding="utf-8")
    plots = [accuracy_plot(runs_of, name) for name, runs_of in by_benchmark(runs).items()]
    plots += [svg for svg in (difficulty_plot(runs),) if svg]
    plots += [curve_plot(title, lines) for title, lines in curves.items()]
    shown = [e for same in by_benchmark(runs).values() for e in _examples(same, examples)]
    return render_template(source, runs=len(runs), plots=plots, tables=tables, examples=shown, questions=questions)


def accuracy_plot(runs: Sequence[BenchmarkRun], benchmark: str) -> str:
    """Accuracy with intervals of each student under each mask, as SVG."""
    students = list(dict.fromkeys(run.subject for run in runs))
    masks = list(dict.fromkeys(run.result.mask for run in runs))

    def draw(axes: Axes) -> None:
        width = 0.8 / len(masks)
        for m, mask in enumerate(masks):
            for run in (r for r in runs if r.result.mask == mask):
                e = run.result.accuracy
                x = students.index(run.subject) + (m - (len(masks) - 1) / 2) * width
                error = [[100 * (e.mean - e.low)], [100 * (e.high - e.mean)]]
                axes.bar(x, 100 * e.mean, width * 0.9, yerr=error, capsize=2, color=f"C{m}", label=mask)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_xticks(range(len(students)), students)
        axes.set_ylabel("accuracy %, 95 % interval, each by its own rule")

    return svg_plot(benchmark, draw)


def difficulty_plot(runs: Sequence[BenchmarkRun]) -> str | None:
    """Accuracy by difficulty as SVG, where questions have a difficulty."""
    labelled = [run for run in runs if run.result.groups.get("difficulty")]
    if not labelled:
        return None

    def draw(axes: Axes) -> None:
        levels = ("easy", "medium", "hard")
        for i, run in enumerate(labelled):
            parts = run.result.groups["difficulty"]
            heights = [100 * parts[level]["accuracy"] if level in parts else 0 for level in levels]
            width = 0.8 / len(labelled)
            axes.bar([x + i * width for x in range(3)], heights, width * 0.9, label=run.name)
        axes.set_xticks([x + 0.4 for x in range(3)], levels)
        axes.set_ylabel("accuracy %")
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    return svg_plot("by difficulty", draw)


def curve_plot(title: str, lines: Curves) -> str:
    """Curves over optimizer steps, as SVG."""

    def draw(axes: Axes) -> None:
        for name, points in lines.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name)
        axes.set_xlabel("step")
        axes.legend(fontsize=8)

    return svg_plot(title, draw)


def _examples(runs: Sequence[BenchmarkRun], count: int) -> list[dict[str, Any]]:
    """Some questions of a benchmark, drawn at random, with each student's answer in full."""
    full = [run for run in runs if run.result.mask == "av"] or list(runs)
    first = full[0].predictions
    # A fixed stride could coincide with the order of the questions, such as one question type after another.
    chosen = np.random.default_rng(0).choice(len(first), min(count, len(first)), replace=False)
    picked = [first[i] for i in sorted(chosen.tolist())]
    answers = [(run, {p.id: p for p in run.predictions}) for run in full]
    shown = []
    for prediction in picked:
        media, kind, why = media_of(full[0], prediction)
        found = [answer_of(run, p) for run, of in answers if (p := of.get(prediction.id)) is not None and p.responses]
        shown.append(
            {
                "question": prediction.question,
                "benchmark": full[0].result.benchmark,
                "choices": list(zip(LETTERS, prediction.choices, strict=False)),
                "answer": prediction.answer,
                "responses": found,
                "media": media,
                "tag": kind,
                "why": why,
            }
        )
    return shown
