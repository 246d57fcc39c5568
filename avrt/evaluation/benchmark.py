"""What a benchmark is, as data: its name and size, its scorers, which of them is the headline, who asks that way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avrt.errors import AvrtError
from avrt.evaluation.scorers import LENIENT, SCORERS, STRICT

OURS = "avrt"
OFFICIAL = "official"


@dataclass(frozen=True)
class BenchmarkOptions:
    """A multiple-choice benchmark.

    Attributes:
        name: What it goes by in results and tables.
        expected: Questions when complete; fewer are reported as missing. None if not known.
        official: Name of the benchmark's own scoring rule; None if ours is all there is.
        further: Names of further scoring rules to report.
        headline: The rule whose figure goes into tables: its name, or `official` for the benchmark's own one, or the
            lenient one where it has none. Whoever asks for a bare letter counts bare letters.
        protocol: Whose way of asking this is, such as `authors` or `nemo_rl`; an overlay in `protocols/` says so.
        needs: What the shards must have taken from the clips for that way of asking, such as `{frames: 32,
            audio_seconds: null}`. A result of other shards says what differs.
        group_by: What accuracy is broken down by: `question_type`, `relation`, `choices` (their number), or a key of
            the samples' metadata. A label `difficulty` is always used where there is one.
        samples: k, answers drawn for each question; more than one needs a temperature.
        pass_at: Report pass@k for these k, none of them above `samples`.
    """

    name: str = "custom"
    expected: int | None = None
    official: str | None = None
    further: list[str] = field(default_factory=list)
    headline: str = STRICT
    protocol: str = OURS
    needs: dict[str, Any] = field(default_factory=dict)
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
    def rule(self) -> str:
        """Name of the rule whose figure goes into tables."""
        return (self.official or LENIENT) if self.headline == OFFICIAL else self.headline

    @property
    def scorers(self) -> list[str]:
        """Every rule to report: strict first, then the official one, the headline's and others."""
        named = [STRICT, *([self.official] if self.official else []), self.rule, *self.further, LENIENT]
        return list(dict.fromkeys(named))
