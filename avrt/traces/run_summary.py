"""The summary at the end of a run: counts, the main reasons, warnings, and whether there is any trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from avrt.data.shards.reader import ShardSet
from avrt.errors import NothingUsableError
from avrt.traces.stats import reason_category
from avrt.traces.trace_options import TraceOptions

MAIN = 3
NEARLY_ALL = 0.9
FEW = 10


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run.

    Attributes:
        counts: Samples by status.
        reasons: Samples that were not kept, by reason.
        warnings: Warnings for the user.
        nothing_usable: Whether the run has neither a trace nor a sample that waits for a later stage.
    """

    counts: Counter[str]
    reasons: Counter[str]
    warnings: tuple[str, ...]
    nothing_usable: bool

    @property
    def counts_line(self) -> str:
        """The counts in one line."""
        return f"{self.counts.total()} samples: {_join(self.counts)}"

    def raise_if_nothing_usable(self, folder: Path) -> None:
        """End the command with status 1 where the run has made nothing usable.

        Raises:
            NothingUsableError: If so.
        """
        if self.nothing_usable and not self.counts:
            raise NothingUsableError("no traces, as there are no samples", where=folder)
        if self.nothing_usable:
            what = f"no trace from {self.counts.total()} samples ({_join(self.counts)})"
            what = f"{what}: {'; '.join(main_reasons(self.reasons))}"
            raise NothingUsableError(what, where=folder, remedy="see avrt traces stats and avrt traces show")


def summarize(run: str, options: TraceOptions, shards: ShardSet) -> RunSummary:
    """Summarize the outcomes of a run.

    Args:
        run: The run's name.
        options: The run's settings.
        shards: The questions.
    """
    found = options.folder.of_questions(shards.digest).rows("outcomes", run)
    counts = Counter(o["status"] for o in found)
    reasons = Counter(reason_category(o["reason"]) for o in found if o["reason"] and o["status"] != "kept")
    warnings = []
    taken = options.limited(len(shards))
    if missing := taken - sum(o["position"] < taken for o in found):
        warnings.append(f"{missing} samples have the id of another sample and share its outcome")
    top = reasons.most_common(1)
    if top and counts.total() >= FEW and top[0][1] >= NEARLY_ALL * counts.total():
        warnings.append(f"{top[0][1]} of {counts.total()} samples are not kept for the same reason: {top[0][0]}")
    # A run without the stage merge is a success if samples wait for it; samples that wait for teachers are a failure.
    waiting = counts["waiting"] if "merge" not in options.stages and "teach" in options.stages else 0
    return RunSummary(counts, reasons, tuple(warnings), not counts["kept"] and not waiting)


def main_reasons(reasons: Counter[str]) -> list[str]:
    """The most frequent reasons with their counts, a line each."""
    lines = [f"{n} {reason}" for reason, n in reasons.most_common(MAIN)]
    rest = reasons.total() - sum(n for _, n in reasons.most_common(MAIN))
    return [*lines, f"{rest} for {len(reasons) - MAIN} other reasons"] if rest else lines


def _join(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.most_common())
