"""One HTML page of everything, complete in itself: plots, tables, and answers beside the clips that they are about."""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from avrt.data.sample import LETTERS
from avrt.evaluation.questions import Question, answer_of, media_of
from avrt.evaluation.runs import Run, by_benchmark
from avrt.evaluation.tables import Table

Curves = Mapping[str, Sequence[tuple[int, float]]]


def render(
    runs: Sequence[Run],
    tables: Sequence[Table],
    curves: Mapping[str, Curves],
    examples: int,
    questions: Sequence[Question] = (),
) -> str:
    """The page.

    Args:
        runs: What was run.
        tables: What is told of it.
        curves: Title -> name -> (step, value) of training runs.
        examples: How many questions of each benchmark are shown with their clip.
        questions: Those that are shown under several masks side by side.
    """
    source = importlib.resources.files("avrt.evaluation").joinpath("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source)
    plots = [plot(runs_of, name) for name, runs_of in by_benchmark(runs).items()]
    plots += [svg for svg in (difficulty_plot(runs),) if svg]
    plots += [curve_plot(title, lines) for title, lines in curves.items()]
    shown = [e for same in by_benchmark(runs).values() for e in _examples(same, examples)]
    return template.render(runs=len(runs), plots=plots, tables=tables, examples=shown, questions=questions)


def plot(runs: Sequence[Run], benchmark: str) -> str:
    """Accuracy with intervals of each student under each mask, as SVG."""
    students = list(dict.fromkeys(run.subject for run in runs))
    masks = list(dict.fromkeys(run.result.mask for run in runs))

    def draw(axes: Any) -> None:
        width = 0.8 / len(masks)
        for m, mask in enumerate(masks):
            for run in (r for r in runs if r.result.mask == mask):
                e = run.result.score
                x = students.index(run.subject) + (m - (len(masks) - 1) / 2) * width
                error = [[100 * (e["accuracy"] - e["low"])], [100 * (e["high"] - e["accuracy"])]]
                axes.bar(x, 100 * e["accuracy"], width * 0.9, yerr=error, capsize=2, color=f"C{m}", label=mask)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_xticks(range(len(students)), students)
        axes.set_ylabel("accuracy %, 95 % interval, each by its own rule")

    return _svg(f"{benchmark}", draw)


def difficulty_plot(runs: Sequence[Run]) -> str | None:
    """Accuracy by difficulty, where questions are labelled."""
    labelled = [run for run in runs if run.result.groups.get("difficulty")]
    if not labelled:
        return None

    def draw(axes: Any) -> None:
        levels = ("easy", "medium", "hard")
        for i, run in enumerate(labelled):
            parts = run.result.groups["difficulty"]
            heights = [100 * parts[level]["accuracy"] if level in parts else 0 for level in levels]
            width = 0.8 / len(labelled)
            axes.bar([x + i * width for x in range(3)], heights, width * 0.9, label=run.name)
        axes.set_xticks([x + 0.4 for x in range(3)], levels)
        axes.set_ylabel("accuracy %")
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    return _svg("by difficulty", draw)


def curve_plot(title: str, lines: Curves) -> str:
    """Curves over optimizer steps, as SVG."""

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], label=name)
        axes.set_xlabel("step")
        axes.legend(fontsize=8)

    return _svg(title, draw)


def _svg(title: str, draw: Callable[[Any], None]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    # Names are texts: a dollar sign in one begins no formula.
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(text, format="svg")
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _examples(runs: Sequence[Run], count: int) -> list[dict[str, Any]]:
    """Questions spread over the benchmark, with what each student answered in full."""
    full = [run for run in runs if run.result.mask == "av"] or list(runs)
    first = full[0].predictions
    # Drawn, because questions often come in an order that a fixed stride would fall in step with.
    chosen = np.random.default_rng(0).choice(len(first), min(count, len(first)), replace=False)
    picked = [first[i] for i in sorted(chosen.tolist())]
    answers = [(run, {p.id: p for p in run.predictions}) for run in full]
    shown = []
    for prediction in picked:
        media, kind, why = media_of(full[0], prediction)
        told = [answer_of(run, p) for run, of in answers if (p := of.get(prediction.id)) is not None and p.responses]
        shown.append(
            {
                "question": prediction.question,
                "benchmark": full[0].result.benchmark,
                "choices": list(zip(LETTERS, prediction.choices, strict=False)),
                "answer": prediction.answer,
                "responses": told,
                "media": media,
                "tag": kind,
                "why": why,
            }
        )
    return shown
