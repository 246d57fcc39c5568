"""A benchmark as data: its name and size, its scorers, the headline scorer, and the protocol that asks it."""

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
        name: Its name in results and tables.
        expected: Number of questions of the complete benchmark; a run of fewer says so. None if not known.
        official: Name of the benchmark's own scorer; None if it has none.
        further: Names of further scorers to report.
        headline: The scorer whose figure goes into tables: its name, or `official` for the benchmark's own one (the
            lenient one where it has none). A protocol that asks for a bare letter sets a scorer that reads one.
        protocol: Whose prompt and settings these are, such as `authors` or `nemo_rl`; the overlays in `protocols/` set
            it.
        needs: What the protocol needs the shards to hold of each clip, such as `{frames: 32, audio_seconds: null}`. The
            result of shards that hold something else names the difference.
        group_by: Accuracy is also reported by: `question_type`, `relation`, `choices` (their number), or a key of the
            samples' metadata. A key `difficulty` is always used where there is one.
        samples: k, answers sampled for each question; more than one needs a temperature above 0.
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
        """Check that the scorers exist and that every pass@k has enough answers."""
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
    def headline_scorer(self) -> str:
        """Name of the scorer whose figure goes into tables."""
        return (self.official or LENIENT) if self.headline == OFFICIAL else self.headline

    @property
    def scorers(self) -> list[str]:
        """Every scorer to report: strict, the official one, the headline's, the further ones, and lenient."""
        names = [STRICT, *([self.official] if self.official else []), self.headline_scorer, *self.further, LENIENT]
        return list(dict.fromkeys(names))
