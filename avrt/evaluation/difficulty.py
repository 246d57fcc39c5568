"""How hard a question is by the teachers' verdicts, added to benchmark runs from `difficulty.jsonl` of avrt traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from avrt.errors import AvrtError
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.result import DIFFICULTY, group_records, mean_credits
from avrt.text import clean, read_json_lines


def with_difficulty(runs: Sequence[BenchmarkRun], path: Path) -> list[BenchmarkRun]:
    """Add to each question its difficulty by the teachers' verdicts, and to each result its accuracy by difficulty.

    Raises:
        AvrtError: If the file is missing or not a list of difficulty labels.
    """
    try:
        labels = {clean(row["id"]): clean(row[DIFFICULTY]) for row in read_json_lines(path)}
    except OSError:
        raise AvrtError("no such file", where=path) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AvrtError(f"not a list of difficulty labels: {error}", where=path) from None
    labelled = []
    for run in runs:
        predictions = [
            replace(p, metadata={**p.metadata, DIFFICULTY: labels[p.id]}) if p.id in labels else p
            for p in run.predictions
        ]
        run = replace(run, predictions=predictions)
        groups = group_records(run.known, mean_credits(run.known, run.result.headline), DIFFICULTY)
        labelled.append(replace(run, result=replace(run.result, groups={**run.result.groups, DIFFICULTY: groups})))
    return labelled
