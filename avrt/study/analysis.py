"""The analysis of a finished study: verdicts, tables, sensitivity, curves, Figure 3 and power, from its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.evaluation.paired_effects import Effect, compare_grids, together
from avrt.evaluation.questions import Question, side_by_side
from avrt.evaluation.tables import Table
from avrt.files import write_whole
from avrt.study.cells import Cells, check_same_questions, read_cells
from avrt.study.claims import Figure3Spec, PowerSpec, ReportSpec, SensitivitySpec
from avrt.study.declaration import Declaration
from avrt.study.tables import all_tables, apart_table, power_table, verdict_table
from avrt.study.verdicts import UNKNOWN, ClaimResult, comparable, judge
from avrt.training.run_log.scalars import Points, read_scalars

REPORT, VERDICTS = "report", "verdicts.json"
DIFFICULTY_FILE = "difficulty.jsonl"
CURVES = {
    "rewards/total/mean": ("Reward", "reward"),
    "rewards/accuracy/mean": ("Accuracy reward", "reward"),
    "rewards/format/mean": ("Format reward", "reward"),
    "completions/tokens": ("Length of answers", "tokens"),
    "policy/kl": ("KL divergence from the reference", "nats per token"),
    "train/loss": ("Loss of fine-tuning", "nats per token"),
}
"""Scalar of a training run -> title and unit of its plot."""


@dataclass(frozen=True)
class Setting:
    """A value of a parameter and how its student compares with the main setting.

    Attributes:
        value: The value, as declared.
        student: The student trained with it.
        effect: Its accuracy minus the main setting's; None for the main setting itself, and where it was not asked.
        main: Whether it is the main setting.
    """

    value: str
    student: str
    effect: Effect | None
    main: bool


@dataclass(frozen=True)
class Analysis:
    """What a study found.

    Attributes:
        title: The study's title.
        claims: The claims with their verdicts.
        left_out: Text of a claim that could not be compared -> why.
        tables: The tables to show below them.
        settings: Parameter -> its values.
        main: The student of the main setting; empty without parameters.
        curves: Scalar -> student -> seed -> its points.
        questions: Questions under every mask.
        power: The assumptions.
    """

    title: str
    claims: list[ClaimResult]
    left_out: dict[str, str]
    tables: list[Table]
    settings: dict[str, list[Setting]]
    main: str
    curves: dict[str, dict[str, dict[int, Points]]]
    questions: list[Question]
    power: PowerSpec

    @property
    def verdict_table(self) -> Table:
        """Each ordering as a row."""
        return verdict_table(self.claims, self.left_out)

    @property
    def power_table(self) -> Table:
        """What each comparison could find, as stated and as it was."""
        return power_table(self.claims, self.power)


def report_spec(declaration: Declaration) -> ReportSpec:
    """The part of a declaration that the report reads."""
    folders = {name: traces.folder for name, traces in declaration.traces.items()}
    seeds = {name: len(declaration.seeds_of(name)) for name in declaration.students}
    labelled = {name: b.difficulty for name, b in declaration.benchmarks.items() if b.difficulty}
    return ReportSpec(
        title=declaration.title,
        seeds=list(declaration.seeds),
        claims=list(declaration.claims),
        once=frozenset(name for name, student in declaration.students.items() if student.once),
        difficulty={name: f"traces/{folders[traces]}" for name, traces in labelled.items()},
        tables=declaration.tables,
        sensitivity=declaration.sensitivity,
        curves=list(declaration.curves),
        figure3=declaration.figure3,
        power=declaration.power,
        asked=frozenset(declaration.cells()),
        fewer={name: number for name, number in seeds.items() if number < len(declaration.seeds)},
    )


def analyze(declaration: Declaration | ReportSpec, out: Path) -> Analysis:
    """Read what a study left, and write its `report/verdicts.json`.

    Args:
        declaration: The study's declaration.
        out: The study's folder.

    Raises:
        AvrtError: If results that a claim needs are missing or damaged.
    """
    spec = declaration if isinstance(declaration, ReportSpec) else report_spec(declaration)
    labels = {name: out / folder / DIFFICULTY_FILE for name, folder in spec.difficulty.items()}
    cells = read_cells(out / "benchmarks", spec.seeds, spec.once, labels, spec.asked, spec.fewer)
    compared, left_out = comparable(cells, spec.claims)
    claims = judge(cells, compared, len(spec.seeds), spec.fewer, spec.power)
    settings, main = _settings(cells, spec.sensitivity)
    (out / REPORT).mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [claim.to_record() for claim in claims]
    records += [
        {"id": c.id, "source": c.source, "text": c.text, "published": c.published, "difference": None,
         "verdict": UNKNOWN, "reason": left_out[c.id]}
        for c in spec.claims if c.id in left_out
    ]  # fmt: skip
    write_whole(out / REPORT / VERDICTS, json.dumps(records, indent=1).encode())
    return Analysis(
        title=spec.title,
        claims=claims,
        left_out={claim.text: left_out[claim.id] for claim in spec.claims if claim.id in left_out},
        tables=[*([apart_table(claims)] if claims else []), *all_tables(cells, spec.tables)],
        settings=settings,
        main=main,
        curves=_curves(out / "students", spec),
        questions=_questions(cells, spec.figure3),
        power=spec.power,
    )


def _settings(cells: Cells, declared: SensitivitySpec) -> tuple[dict[str, list[Setting]], str]:
    """Every value of every parameter against the main setting."""
    if not declared.parameters:
        return {}, ""
    main = declared.main_student()
    asked = {student: None for values in declared.parameters.values() for student in values.values()}
    others = [s for s in asked if s != main and cells.has(s, declared.benchmark, declared.mask)]
    reference = cells.grid(main, declared.benchmark, declared.mask, {})
    grids = [cells.grid(s, declared.benchmark, declared.mask, {}) for s in others]
    for student, grid in zip(others, grids, strict=True):
        check_same_questions(grid, reference, f"sensitivity: {student}")
    layouts = [compare_grids(grid, reference) for grid in grids]
    effects = dict(zip(others, together(layouts, len(others) - 1), strict=True))
    found = {
        name: [Setting(value, student, effects.get(student), student == main) for value, student in values.items()]
        for name, values in declared.parameters.items()
    }
    return found, main


def _curves(folder: Path, spec: ReportSpec) -> dict[str, dict[str, dict[int, Points]]]:
    """The curves of trainings, for every seed that has a run."""
    found: dict[str, dict[str, dict[int, Points]]] = {tag: {} for tag in CURVES}
    for student in spec.curves:
        for seed in spec.seeds[: spec.fewer.get(student)]:
            run = folder / student / f"seed-{seed}" / "run"
            if not run.is_dir():
                continue
            scalars = read_scalars(run, CURVES)
            # GRPO's loss is another quantity: near 0 whatever it has learned.
            if "policy/kl" in scalars:
                scalars.pop("train/loss", None)
            for tag, points in scalars.items():
                found[tag].setdefault(student, {})[seed] = points
    return {tag: lines for tag, lines in found.items() if lines}


def _questions(cells: Cells, declared: Figure3Spec | None) -> list[Question]:
    """Questions of one student under every mask: first those that need both senses, as far as its answers show it.

    These are answered rightly with both senses and wrongly with one of them alone; they are taken in the order of the
    shards, and after them the others.
    """
    if declared is None:
        return []
    runs = [
        next(iter(by_seed.values()))
        for (student, benchmark, _), by_seed in cells.runs.items()
        if (student, benchmark) == (declared.student, declared.benchmark)
    ]
    full = next((run for run in runs if run.result.mask == "av"), runs[0] if runs else None)
    if full is None:
        cells.of(declared.student, declared.benchmark, "av")
        return []
    right = {run.result.mask: run.correct_by_id() for run in runs}
    both = right[full.result.mask]

    def senses_needed(identity: str) -> int:
        alone = [right[mask].get(identity, False) for mask in ("a", "v") if mask in right]
        return alone.count(False) if both[identity] else -1

    ids = sorted(both, key=senses_needed, reverse=True)[: declared.questions]
    return side_by_side(runs, ids)
