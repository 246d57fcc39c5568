"""The power of a study, stated before it runs: what its seeds and questions can tell, from its assumptions alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.evaluation.result import RESULT
from avrt.evaluation.statistics import percent
from avrt.evaluation.tables import Table
from avrt.files import write_whole
from avrt.study.declaration import Declaration
from avrt.study.tables import NONE, assumptions
from avrt.study.verdicts import stated_power

POWER = "power.md"


def state_power(declaration: Declaration, out: Path) -> Table:
    """Write `report/power.md` below a study's folder, before anything has run.

    What was stated before answers were there stays: another statement is added below, with their number. Claims about
    benchmarks whose shards do not say `clips` and `questions_per_clip` are left out.

    Args:
        declaration: The study's declaration.
        out: The study's folder.
    """
    sizes = {}
    for name, benchmark in declaration.benchmarks.items():
        asked = declaration.shards[benchmark.shards].arguments
        if {"clips", "questions_per_clip"} <= asked.keys():
            clips = int(asked["clips"])
            sizes[name] = (clips, clips * int(asked["questions_per_clip"]))
    claims = [claim for claim in declaration.claims if claim.benchmark in sizes]
    once = frozenset(name for name, student in declaration.students.items() if student.once)
    seeds = {name: len(declaration.seeds_of(name)) for name in declaration.students}
    stated = stated_power(claims, sizes, len(declaration.seeds), seeds, once, declaration.power)
    rows = [
        [
            claim.text,
            f"{claim.benchmark}, {sizes[claim.benchmark][1]} questions about {sizes[claim.benchmark][0]} clips",
            str(min(seeds[claim.first.student], seeds[claim.second.student])),
            f"{power.error:.1f}",
            f"{power.smallest:.1f}",
            NONE if claim.published is None else f"{claim.published:+.1f}",
            NONE if power.published is None else f"{percent(power.published)} %",
        ]
        for claim, power in zip(claims, stated, strict=True)
    ]
    head = [
        "ordering",
        "asked",
        "seeds",
        "standard error",
        "smallest difference found",
        "published difference",
        "power for it",
    ]
    note = assumptions(declaration.power, len(claims))
    table = Table("power", "Power, stated before the run", head, rows, note)
    _write(table, out)
    return table


def _write(table: Table, out: Path) -> None:
    path = out / "report" / POWER
    before = path.read_text() if path.is_file() else ""
    answered = len(list((out / "benchmarks").rglob(RESULT)))
    if answered and before:
        title = f"Power, stated again when {answered} cell{'s' * (answered > 1)} had been answered"
        again = replace(table, title=title).markdown()
        # The last statement stands until its figures change.
        if before.rpartition("\n## ")[2].partition("\n")[2] == again.partition("\n")[2]:
            return
        before += "\n"
    else:
        before, again = "", table.markdown()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (before + again).encode())
