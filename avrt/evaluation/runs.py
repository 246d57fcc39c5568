"""Runs on disk: results with their predictions, the names that keep them apart, and which of them are alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.evaluation.benchmark import OURS
from avrt.evaluation.protocol import fingerprint
from avrt.evaluation.records import PREDICTIONS, Prediction, read_predictions
from avrt.evaluation.result import RESULT, Result, correctness

OF_MASK = ("prompt.senses", "prompt.masked", "shuffle_audio", "shuffle_seed")
OF_STUDENT = ("student.weights", "student.dtype", "student.attention", "seed")
REPLAY = "replay"


@dataclass(frozen=True)
class Run:
    """A result with its predictions.

    Attributes:
        folder: Where both are.
        result: The result.
        predictions: The predictions, in the order of the shards.
        mark: What tells it from another run of the same student, benchmark, mask and protocol: its folder.
    """

    folder: Path
    result: Result
    predictions: list[Prediction]
    mark: str = ""

    @property
    def student(self) -> str:
        """The student by its own name: a miniature says that it is one."""
        return self.result.own_name

    @property
    def subject(self) -> str:
        """The student, who asked it where that was not us, and the mark."""
        asked = "" if self.result.asked_by == OURS else f", asked by {self.result.asked_by}"
        return self.student + asked + (f" [{self.mark}]" if self.mark else "")

    @property
    def name(self) -> str:
        """Subject, benchmark and mask; no other run goes by it."""
        return f"{self.subject} / {self.result.benchmark} / {self.result.mask}"

    @property
    def known(self) -> list[Prediction]:
        """The questions whose answer is known."""
        return [p for p in self.predictions if p.answer is not None]

    def verdicts(self) -> dict[str, bool]:
        """For each question whether it counts as right, by the headline's rule."""
        shares = correctness(self.known, self.result.headline)
        return {p.id: share > 0.5 for p, share in zip(self.known, shares, strict=True)}


def read_runs(root: Path) -> list[Run]:
    """Every run below a folder, but for repeated ones.

    Raises:
        AvrtError: If there is none.
    """
    paths = [path for path in sorted(root.rglob(RESULT)) if path.parent.name != REPLAY]
    if not paths:
        raise AvrtError(f"no {RESULT} below", where=root, remedy="run: avrt test or avrt benchmark")
    runs = [Run(path.parent, Result.load(path), read_predictions(path.parent / PREDICTIONS)) for path in paths]
    return told_apart(runs, root)


def told_apart(runs: Sequence[Run], root: Path) -> list[Run]:
    """The runs, those of equal name with their folder as a mark."""
    names = Counter(run.name for run in runs)

    def place(folder: Path) -> str:
        return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)

    return [replace(run, mark=place(run.folder)) if names[run.name] > 1 else run for run in runs]


def asked_alike(run: Run) -> str:
    """Equal for runs that differ in nothing but the student and the mask."""
    return _hash(run, OF_MASK + OF_STUDENT)


def same_student(run: Run) -> str:
    """Equal for runs that differ in nothing but the mask."""
    return _hash(run, OF_MASK)


def _hash(run: Run, leave_out: Sequence[str]) -> str:
    kept: Mapping[str, Any] = {key: v for key, v in run.result.protocol.items() if key not in leave_out}
    return fingerprint({**kept, "headline": run.result.headline, "asked_by": run.result.asked_by})


def by_benchmark(runs: Sequence[Run]) -> Mapping[str, list[Run]]:
    """Runs by benchmark, for plots."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.result.benchmark].append(run)
    return found
