"""How long a study's stages take, from those of their like that are finished: what is urgent, and the time left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from avrt.study.records import Records
from avrt.study.stages import Plan, Stage

_UNKNOWN = {"fit": 60.0, "traces": 60.0}
_ELSE = 5.0
"""Seconds of what nothing is known of, which decide about the order alone."""


class Estimate:
    """What is expected of a plan's stages.

    Args:
        plan: The stages.
        records: What is finished of them.
        jobs: How many run at a time.
    """

    def __init__(self, plan: Plan, records: Records, jobs: int) -> None:
        self._plan = plan
        self._records = records
        self._jobs = jobs
        self._rank: dict[str, float] = {}
        followers: dict[str, list[str]] = defaultdict(list)
        for stage in plan.stages.values():
            for name in stage.needs:
                followers[name].append(stage.name)
        for stage in reversed(plan.stages.values()):
            after = max((self._rank[name] for name in followers[stage.name]), default=0.0)
            self._rank[stage.name] = after + _UNKNOWN.get(stage.command[0], _ELSE)

    def urgency(self, stage: Stage) -> float:
        """Seconds on the longest way from a stage to the end, roughly; of equal ones the first declared counts."""
        return self._rank[stage.name]

    def left(self, waiting: Sequence[Stage], running: Sequence[Stage]) -> float | None:
        """Seconds until all is done; None until something is known of each kind of stage that remains."""
        by_like: dict[str, list[float]] = defaultdict(list)
        by_kind: dict[str, list[float]] = defaultdict(list)
        for name, record in self._records.found.items():
            stage = self._plan.stages.get(name)
            if stage is not None:
                by_like[stage.like].append(record.seconds)
                by_kind[stage.kind].append(record.seconds)
        expected: dict[str, float] = {}
        for stage in (*waiting, *running):
            known = by_like.get(stage.like) or by_kind.get(stage.kind)
            if known is None:
                return None
            expected[stage.name] = fmean(known)
        # Running ones are taken to be half done.
        work = sum(expected[s.name] for s in waiting) + sum(expected[s.name] for s in running) / 2
        return max(work / self._jobs, self._longest_way(expected))

    def _longest_way(self, expected: dict[str, float]) -> float:
        ends: dict[str, float] = {}
        for stage in self._plan.stages.values():
            if stage.name in expected:
                ends[stage.name] = expected[stage.name] + max((ends.get(n, 0.0) for n in stage.needs), default=0.0)
        return max(ends.values(), default=0.0)
