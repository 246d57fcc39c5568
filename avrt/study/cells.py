"""The answers that a study left on disk, as grids of seeds and questions: one for each student, benchmark and mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from avrt.errors import AvrtError
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.difficulty import with_difficulty
from avrt.evaluation.paired_effects import AnswerGrid, Effect, clip_of, grid_layout, together
from avrt.evaluation.predictions import PREDICTIONS, Prediction, read_predictions
from avrt.evaluation.result import RESULT, Result, group_values, mean_credits
from avrt.evaluation.scorers import STRICT

SEED = "seed-"
Measure = Literal["headline", "strict", "well_formed"]
"""What a grid holds: credit by the benchmark's headline scorer, by the strict one, or whether the form is kept."""
Key = tuple[str, str, str]
"""Student, benchmark and mask."""


class NothingToCompareError(AvrtError):
    """A comparison without questions or seeds, which depends on the answers and not on the declaration."""


@dataclass(frozen=True)
class Cells:
    """Every cell of a study.

    Attributes:
        folder: `benchmarks` in the study's folder.
        runs: Student, benchmark, mask -> seed -> the run.
        once: Students of which one model stands for every seed.
    """

    folder: Path
    runs: Mapping[Key, Mapping[int, BenchmarkRun]]
    once: frozenset[str]
    _means: dict[tuple[object, ...], dict[str, Effect]] = field(default_factory=dict)
    _credits: dict[tuple[Path, Measure], np.ndarray] = field(default_factory=dict)

    def has(self, student: str, benchmark: str, mask: str) -> bool:
        """Whether a cell was asked."""
        return (student, benchmark, mask) in self.runs

    def of(self, student: str, benchmark: str, mask: str) -> Mapping[int, BenchmarkRun]:
        """A cell's runs by seed.

        Raises:
            AvrtError: If the cell was not asked.
        """
        if not self.has(student, benchmark, mask):
            raise AvrtError(
                f"no results of {student} on {benchmark} under {mask}", where=self.folder, remedy="add it to `asked`"
            )
        return self.runs[student, benchmark, mask]

    def grid(
        self, student: str, benchmark: str, mask: str, group: Mapping[str, str], measure: Measure = "headline"
    ) -> AnswerGrid:
        """A cell's answers, or those to a group of its questions.

        Raises:
            NothingToCompareError: If no question is in the group.
            AvrtError: If it was not asked, or the seeds' questions differ.
        """
        by_seed = self.of(student, benchmark, mask)
        rows, ids, first = [], None, next(iter(by_seed.values()))
        for run in by_seed.values():
            every = run.known
            places = [i for i, p in enumerate(every) if in_group(p, group)]
            known = [every[i] for i in places]
            if not known:
                raise NothingToCompareError(f"no question of the group {dict(group)}", where=run.folder)
            if ids is not None and [p.id for p in known] != ids:
                raise AvrtError(
                    "other questions than with another seed", where=run.folder, remedy=f"compare {first.folder}"
                )
            ids, asked = [p.id for p in known], known
            rows.append(self._credits_of(run, measure)[places])
        # Clips of two benchmarks are different ones, whatever their names.
        clips = tuple(f"{benchmark}/{clip_of(p)}" for p in asked)
        seeds = tuple(by_seed)
        once = student in self.once
        return AnswerGrid(np.array(rows[:1] if once else rows), seeds[:1] if once else seeds, clips, once)

    def _credits_of(self, run: BenchmarkRun, measure: Measure) -> np.ndarray:
        """(Q,) a run's credits for all its questions; most are wanted for several comparisons."""
        key = (run.folder, measure)
        if key not in self._credits:
            self._credits[key] = np.array(MEASURES[measure](run, run.known))
        return self._credits[key]

    def means(
        self, benchmark: str, mask: str, group: Mapping[str, str], measure: Measure = "headline"
    ) -> dict[str, Effect]:
        """The mean over seeds of every student that was asked so; together they tell how much seeds matter.

        Empty if no question is in the group, or all are about one clip.
        """
        key = (benchmark, mask, tuple(sorted(group.items())), measure)
        if key not in self._means:
            students = [s for s, b, m in self.runs if (b, m) == (benchmark, mask)]
            try:
                layouts = [grid_layout(self.grid(student, benchmark, mask, group, measure)) for student in students]
            except (NothingToCompareError, ValueError):
                return {}
            effects = together(layouts, len(set(students) - self.once) - 1)
            self._means[key] = dict(zip(students, effects, strict=True))
        return self._means[key]


def check_same_questions(first: AnswerGrid, second: AnswerGrid, where: str) -> None:
    """Refuse to pair answers to different questions, as where one student was asked other shards.

    Raises:
        AvrtError: If the clips that the questions are about differ.
    """
    if first.clips != second.clips:
        what = f"{len(first.clips)} and {len(second.clips)} answers, which are not to the same questions"
        raise AvrtError(what, where=where, remedy="ask both students the same shards")


def read_cells(
    folder: Path,
    seeds: Sequence[int],
    once: Iterable[str],
    difficulty: Mapping[str, Path],
    asked: Collection[Key] | None = None,
    fewer: Mapping[str, int] | None = None,
) -> Cells:
    """Read `STUDENT/seed-S/BENCHMARK/MASK/` below a folder.

    Args:
        folder: The folder `benchmarks` of a study.
        seeds: The study's seeds; results of others, left by an earlier declaration, are not read.
        once: Students of which one model stands for every seed.
        difficulty: Benchmark -> `difficulty.jsonl`, whose labels its questions get.
        asked: (student, benchmark, mask) that belong to the study; others, left by an earlier declaration, are not
            read. None for all.
        fewer: Student -> how many of the seeds, the first, it has; others have all.

    Raises:
        AvrtError: If there is no result, or a file is damaged.
    """
    found: dict[Key, dict[int, BenchmarkRun]] = {}
    for path in sorted(folder.glob(f"*/{SEED}*/*/*/{RESULT}")):
        student, seed, benchmark, mask = path.parent.relative_to(folder).parts
        number = seed.removeprefix(SEED)
        if not number.isdecimal() or int(number) not in seeds[: (fewer or {}).get(student)]:
            continue
        if asked is not None and (student, benchmark, mask) not in asked:
            continue
        result = replace(Result.load(path), student=student)
        run = BenchmarkRun(path.parent, result, read_predictions(path.parent / PREDICTIONS))
        if benchmark in difficulty:
            [run] = with_difficulty([run], difficulty[benchmark])
        found.setdefault((student, benchmark, mask), {})[int(number)] = run
    if not found:
        raise AvrtError(f"no {RESULT} of these seeds below", where=folder, remedy="run: avrt study")
    in_order = {key: {seed: runs[seed] for seed in seeds if seed in runs} for key, runs in found.items()}
    return Cells(folder, in_order, frozenset(once))


def in_group(prediction: Prediction, group: Mapping[str, str]) -> bool:
    """Whether every field of a group agrees."""
    return all(str(value) in group_values(prediction, name) for name, value in group.items())


def reasoning_words(runs: Iterable[BenchmarkRun]) -> float | None:
    """Mean number of words inside `<think>`, of answers that have it; None if none has."""
    words = [
        response.think_words
        for run in runs
        for p in run.known
        if (response := p.response) is not None and response.think_words is not None
    ]
    return sum(words) / len(words) if words else None


def _well_formed(run: BenchmarkRun, known: Sequence[Prediction]) -> list[float]:
    return [float(response.well_formed) if (response := p.response) is not None else 0.0 for p in known]


MEASURES: dict[Measure, Callable[[BenchmarkRun, Sequence[Prediction]], list[float]]] = {
    "headline": lambda run, known: mean_credits(known, run.result.headline),
    "strict": lambda run, known: mean_credits(known, STRICT),
    "well_formed": _well_formed,
}
"""Measure -> how a run's answers to known questions are judged."""
