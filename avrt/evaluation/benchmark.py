"""What a benchmark is, as data: its name and size, its official scorer, and how its questions are grouped."""

from __future__ import annotations

from dataclasses import dataclass, field

from avrt.errors import AvrtError
from avrt.evaluation.scorers import LENIENT, SCORERS, STRICT


@dataclass(frozen=True)
class BenchmarkOptions:
    """A multiple-choice benchmark.

    Attributes:
        name: What it goes by in results and tables.
        expected: Questions when complete; fewer are reported as missing. None if not known.
        official: Name of the benchmark's own scoring rule; None if ours is all there is.
        further: Names of further scoring rules to report.
        group_by: What accuracy is broken down by: `question_type`, `relation`, `choices` (their number), or a key of
            the samples' metadata. A label `difficulty` is always used where there is one.
        samples: k, answers drawn for each question; more than one needs a temperature.
        pass_at: Report pass@k for these k, none of them above `samples`.
    """

    name: str = "custom"
    expected: int | None = None
    official: str | None = None
    further: list[str] = field(default_factory=list)
    group_by: list[str] = field(default_factory=lambda: ["question_type"])
    samples: int = 1
    pass_at: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse scorers that do not exist and numbers that cannot be had."""
        for name in self.scorers:
            if name not in SCORERS:
                raise AvrtError("no such scorer", where=name, remedy=f"one of {', '.join(SCORERS)}")
        if self.samples < 1 or any(not 1 <= k <= self.samples for k in self.pass_at):
            raise AvrtError(
                f"pass@{max(self.pass_at, default=1)} from {self.samples} answers per question",
                where="model.benchmark.pass_at",
                remedy="raise model.benchmark.samples",
            )

    @property
    def scorers(self) -> list[str]:
        """Every rule to report: strict first, which is the headline, then the official one."""
        named = [STRICT, *([self.official] if self.official else []), *self.further, LENIENT]
        return list(dict.fromkeys(named))
