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
        """Seconds until all is done; None until a stage is finished.

        Each is taken to need as long as the finished ones of its like, or of its kind, or of its command, or all.
        """
        known: dict[str, list[float]] = defaultdict(list)
        for name, record in self._records.found.items():
            if (stage := self._plan.stages.get(name)) is not None:
                for group in self._groups(stage):
                    known[group].append(record.seconds)
        if not known:
            return None
        expected = {
            stage.name: fmean(next(known[group] for group in self._groups(stage) if group in known))
            for stage in (*waiting, *running)
        }
        # Running ones are taken to be half done.
        work = sum(expected[stage.name] for stage in waiting) + sum(expected[stage.name] for stage in running) / 2
        return max(work / self._jobs, self._longest_way(expected))

    @staticmethod
    def _groups(stage: Stage) -> tuple[str, ...]:
        return (f"like {stage.like}", f"kind {stage.kind}", f"command {stage.command[0]}", "all")

    def _longest_way(self, expected: dict[str, float]) -> float:
        ends: dict[str, float] = {}
        for stage in self._plan.stages.values():
            if stage.name in expected:
                ends[stage.name] = expected[stage.name] + max((ends.get(n, 0.0) for n in stage.needs), default=0.0)
        return max(ends.values(), default=0.0)
