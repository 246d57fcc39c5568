"""Benchmark runs on disk: results with their predictions, unique names, and which runs are comparable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avrt.errors import AvrtError
from avrt.evaluation.benchmark_options import OURS
from avrt.evaluation.predictions import PREDICTIONS, Prediction, read_predictions
from avrt.evaluation.protocol import fingerprint, in_mask_order
from avrt.evaluation.result import RESULT, Result, mean_credits

MASK_FIELDS = ("prompt.senses", "prompt.masked", "shuffle_audio", "shuffle_seed")
"""Fields of a protocol that a modality mask sets."""
STUDENT_FIELDS = ("student.weights", "student.dtype", "student.attention", "seed")
"""Fields of a protocol that differ between students."""
REPLAY = "replay"


@dataclass(frozen=True)
class BenchmarkRun:
    """A result with its predictions.

    Attributes:
        folder: The folder of both.
        result: The result.
        predictions: The predictions, in the order of the shards.
        suffix: The folder, where several runs have the same student, benchmark, mask and protocol; else empty.
    """

    folder: Path
    result: Result
    predictions: list[Prediction]
    suffix: str = ""

    @property
    def student(self) -> str:
        """The student's label; that of a miniature says so."""
        return self.result.display_name

    @property
    def subject(self) -> str:
        """The student, whose protocol and which engine it is where these are not ours, and the suffix."""
        asked = "" if self.result.asked_by == OURS else f", asked by {self.result.asked_by}"
        return self.student + asked + self.result.other_engine + (f" [{self.suffix}]" if self.suffix else "")

    @property
    def name(self) -> str:
        """Subject, benchmark and mask: unique among the runs that were read together."""
        return f"{self.subject} / {self.result.benchmark} / {self.result.mask}"

    @property
    def known(self) -> list[Prediction]:
        """The questions whose answer is known."""
        return [p for p in self.predictions if p.answer is not None]

    def correct_by_id(self) -> dict[str, bool]:
        """For each question whether its answers are right by the headline scorer, on average more than half of them."""
        credit = mean_credits(self.known, self.result.headline)
        return {p.id: value > 0.5 for p, value in zip(self.known, credit, strict=True)}


def read_runs(root: Path) -> list[BenchmarkRun]:
    """Every run below a folder, in the order of tables; replays are left out.

    Raises:
        AvrtError: If there is none.
    """
    paths = [path for path in sorted(root.rglob(RESULT)) if path.parent.name != REPLAY]
    if not paths:
        raise AvrtError(f"no {RESULT} below", where=root, remedy="run: avrt test or avrt benchmark")
    runs = [BenchmarkRun(path.parent, Result.load(path), read_predictions(path.parent / PREDICTIONS)) for path in paths]
    return with_unique_names(in_order(runs), root)


def in_order(runs: Sequence[BenchmarkRun]) -> list[BenchmarkRun]:
    """The runs in the order of tables: a student's runs on a benchmark stand together, mask by mask."""
    places: dict[tuple[str, str], int] = {}
    for run in runs:
        places.setdefault((run.subject, run.result.benchmark), len(places))
    masks = in_mask_order(run.result.mask for run in runs)
    return sorted(runs, key=lambda run: (places[run.subject, run.result.benchmark], masks.index(run.result.mask)))


def with_unique_names(runs: Sequence[BenchmarkRun], root: Path) -> list[BenchmarkRun]:
    """The runs; those of equal name get their folder below `root` as a suffix."""
    names = Counter(run.name for run in runs)

    def place(folder: Path) -> str:
        return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)

    return [replace(run, suffix=place(run.folder)) if names[run.name] > 1 else run for run in runs]


def comparison_key(run: BenchmarkRun) -> str:
    """Equal for runs that differ only in the student and the mask."""
    return _key_without(run, MASK_FIELDS + STUDENT_FIELDS)


def ablation_key(run: BenchmarkRun) -> str:
    """Equal for runs that differ only in the mask."""
    return _key_without(run, MASK_FIELDS)


def _key_without(run: BenchmarkRun, fields: Sequence[str]) -> str:
    kept = {key: value for key, value in run.result.protocol.items() if key not in fields}
    return fingerprint({**kept, "headline": run.result.headline, "asked_by": run.result.asked_by})


def by_benchmark(runs: Sequence[BenchmarkRun]) -> Mapping[str, list[BenchmarkRun]]:
    """Runs by benchmark."""
    found: dict[str, list[BenchmarkRun]] = defaultdict(list)
    for run in runs:
        found[run.result.benchmark].append(run)
    return found
