"""What a run tells when it is through: counts, the main reasons, and whether anything came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from avrt.errors import NothingUsableError
from avrt.traces.options import TraceOptions
from avrt.traces.stats import plain_reason
from avrt.traces.store import rows

MAIN = 3
NEARLY_ALL = 0.9
FEW = 10


@dataclass(frozen=True)
class Conclusion:
    """What came of a run.

    Attributes:
        counts: Samples by status.
        reasons: Samples that were not kept, by reason.
        warnings: What the user should look at.
        useless: Whether neither a trace nor anything for a later stage came of it.
    """

    counts: Counter[str]
    reasons: Counter[str]
    warnings: tuple[str, ...]
    useless: bool

    @property
    def told(self) -> str:
        """The counts in one line."""
        return f"{self.counts.total()} samples: {_listed(self.counts)}"

    def raise_if_useless(self, folder: Path) -> None:
        """End the command as a failure where nothing came of it.

        Raises:
            NothingUsableError: If nothing did.
        """
        if not self.useless:
            return
        if not self.counts:
            raise NothingUsableError("there are no samples, so there are no traces", where=folder)
        why = "; ".join(told_reasons(self.reasons))
        raise NothingUsableError(
            f"not one trace of {self.counts.total()} samples ({_listed(self.counts)}): {why}",
            where=folder,
            remedy="avrt traces stats and avrt traces show say more",
        )


def conclude(run: str, options: TraceOptions, samples: int) -> Conclusion:
    """Look at what became of a run's samples.

    Args:
        run: The run's name.
        options: Its options.
        samples: Number of samples in the shards.
    """
    folder, query = options.folder, "SELECT * FROM outcomes WHERE folder = ? AND run = ?"
    found = [dict(row) for row in rows(folder.store, query, (folder.name, run))]
    counts = Counter(dict(Counter(o["status"] for o in found).most_common()))
    reasons = Counter(plain_reason(o["reason"]) for o in found if o["reason"] and o["status"] != "kept")
    warnings = []
    taken = samples if options.limit is None else min(samples, options.limit)
    if missing := taken - sum(o["position"] < taken for o in found):
        warnings.append(f"{missing} samples have the id of another sample, and are not told apart from it")
    top = reasons.most_common(1)
    if top and counts.total() >= FEW and top[0][1] >= NEARLY_ALL * counts.total():
        warnings.append(f"{top[0][1]} of {counts.total()} samples are not kept for one reason: {top[0][0]}")
    # What waits for a stage that this run was not to do is no failure; what waits for an earlier stage is.
    waiting = counts["waiting"] if "merge" not in options.stages and "teach" in options.stages else 0
    return Conclusion(counts, reasons, tuple(warnings), not counts["kept"] and not waiting)


def told_reasons(reasons: Counter[str]) -> list[str]:
    """The main reasons with their counts, a line each."""
    lines = [f"{n} {reason}" for reason, n in reasons.most_common(MAIN)]
    rest = reasons.total() - sum(n for _, n in reasons.most_common(MAIN))
    return [*lines, f"{rest} for {len(reasons) - MAIN} other reasons"] if rest else lines


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.most_common())
