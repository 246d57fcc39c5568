"""Figures of yes/no questions, which expose a student that always says Yes: precision, recall, F1, share of Yes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from avrt.evaluation.predictions import Prediction
from avrt.evaluation.scorers import Verdict, lower_choices

ALL = "all"


def yes_no_figures(
    predictions: Sequence[Prediction], verdicts: Sequence[Sequence[Verdict]]
) -> dict[str, dict[str, Any]]:
    """Accuracy, precision, recall, F1 and the share of Yes, as AVHBench reports them, for each task and over all.

    Yes is the positive class. An unparsable answer is wrong and does not count as Yes; a question that could not be
    asked counts as one such answer.

    Args:
        predictions: Questions with a known answer.
        verdicts: For each of them the verdict on each of its answers.

    Returns:
        Task (`question_type`), or `all` -> figures as shares from 0 to 1, and counts. Empty unless all questions have
        the choices Yes and No.
    """
    samples = [prediction.sample() for prediction in predictions]
    if not samples or not all(sample.yes_no for sample in samples):
        return {}
    pairs: dict[str, list[tuple[bool, bool | None]]] = defaultdict(list)
    for sample, judged in zip(samples, verdicts, strict=True):
        words = lower_choices(sample)
        right = words[sample.right[0]] == "yes"
        for verdict in judged or [Verdict(None, False)]:
            said = None if verdict.choice is None else words[sample.letters.index(verdict.choice)] == "yes"
            for group in dict.fromkeys([ALL, sample.question_type or ALL]):
                pairs[group].append((right, said))
    return {group: _figures(pairs[group]) for group in [ALL, *sorted(set(pairs) - {ALL})]}


def _figures(pairs: Sequence[tuple[bool, bool | None]]) -> dict[str, Any]:
    """The figures of (right answer is Yes, student says Yes) pairs; the latter is None for an unparsable answer."""
    hits = sum(right and said is True for right, said in pairs)
    yeses = sum(said is True for _, said in pairs)
    positives = sum(right for right, _ in pairs)
    precision, recall = hits / max(1, yeses), hits / max(1, positives)
    return {
        "accuracy": sum(said is not None and right == said for right, said in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes": yeses / len(pairs),
        "unread": sum(said is None for _, said in pairs),
        "answers": len(pairs),
    }
