"""The HTML report, one self-contained page: plots, tables, and answers beside the clips that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avrt.data.sample import LETTERS
from avrt.evaluation.benchmark_runs import BenchmarkRun, by_benchmark
from avrt.evaluation.protocol import in_mask_order
from avrt.evaluation.questions import SHOWN_MASKS, Question, Side, answer_of, media_of
from avrt.evaluation.report_plots import accuracy_plots, difficulty_plots
from avrt.evaluation.tables import Table
from avrt.html.pages import render_page
from avrt.html.plots import curves as curve_plot

Curves = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Curve:
    """A plot of training curves.

    Attributes:
        title: What the values are.
        unit: Their unit.
        lines: Name -> (step, value).
    """

    title: str
    unit: str
    lines: Curves


def render(
    runs: Sequence[BenchmarkRun],
    tables: Mapping[str, Sequence[Table]],
    curves: Sequence[Curve],
    examples: int,
    questions: Sequence[Question] = (),
) -> str:
    """Render the report.

    Args:
        runs: The runs.
        tables: Heading -> the tables below it.
        curves: Training curves.
        examples: How many questions of each benchmark to show with their clip.
        questions: Questions to show under several masks side by side.
    """
    plots = [*accuracy_plots(runs), *difficulty_plots(runs)]
    for number, curve in enumerate(curves, 1):
        plots.append(curve_plot(f"curve-{number}", curve.title, curve.lines, unit=curve.unit))
    shown = [e for same in by_benchmark(runs).values() for e in _examples(same, examples)]
    return render_page(
        "avrt.evaluation",
        "html_report.html",
        runs=len(runs),
        plots=plots,
        groups=[(heading, found) for heading, found in tables.items() if found],
        contents_of=lambda found: [(table.id, table.short or table.title) for table in found],
        questions=questions,
        examples=shown,
        filters=_filters(shown),
    )


def _examples(runs: Sequence[BenchmarkRun], count: int) -> list[dict[str, Any]]:
    """Some questions of a benchmark, drawn at random, with each run's answer in full, mask by mask."""
    masks = in_mask_order({run.result.mask for run in runs})
    full = next(run for run in runs if run.result.mask == masks[0])
    # A fixed stride could coincide with the order of the questions, such as one question type after another.
    chosen = np.random.default_rng(0).choice(len(full.predictions), min(count, len(full.predictions)), replace=False)
    answers = [(run, {p.id: p for p in run.predictions}) for run in runs]
    shown = []
    for prediction in (full.predictions[i] for i in sorted(chosen.tolist())):
        media, tag, why = media_of(full, prediction)
        sides = []
        for mask in masks:
            found = [
                answer_of(run, p)
                for run, of in answers
                if run.result.mask == mask and (p := of.get(prediction.id)) is not None and p.responses
            ]
            if found:
                sides.append(Side(mask, SHOWN_MASKS.get(mask, mask), found))
        shown.append(
            {
                "id": prediction.id,
                "question": prediction.question,
                "question_type": prediction.question_type,
                "benchmark": full.result.benchmark,
                "choices": list(zip(LETTERS, prediction.choices, strict=False)),
                "answer": prediction.answer,
                "sides": sides,
                "media": media,
                "tag": tag,
                "why": why,
            }
        )
    return shown


def _filters(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the examples can be filtered by, with the values that occur."""
    sides = [side for e in examples for side in e["sides"]]
    verdicts = {f"{a.subject}: {a.outcome}": None for side in sides for a in side.answers}
    return [
        {"name": "benchmark", "label": "Benchmark", "options": list(dict.fromkeys(e["benchmark"] for e in examples))},
        {"name": "verdict", "label": "Answer", "options": sorted(verdicts)},
        {"name": "mask", "label": "Mask", "options": in_mask_order({side.mask for side in sides})},
        {
            "name": "type",
            "label": "Question type",
            "options": sorted({e["question_type"] for e in examples if e["question_type"]}),
        },
    ]
