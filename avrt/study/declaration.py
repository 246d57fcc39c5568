"""What a study consists of: shards, students, traces, benchmarks, who is asked what, and what is claimed of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

REFERENCE = re.compile(r"\{(shards|traces|students)\.([^{}]*)\}")
"""A place in an argument that stands for a folder of the study, such as `{students.base}`."""


@dataclass(frozen=True)
class ShardsSpec:
    """Shards that are made once, by `avrt shards`.

    Attributes:
        recipe: The recipe.
        arguments: Its further options; `root` is `clips/NAME` in the study's folder unless given.
    """

    recipe: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSpec:
    """What all trainings of one stage have in common.

    Attributes:
        config: Configurations behind the stage's own, before the student's.
        arguments: Options of `avrt fit`; the student's come after them.
    """

    config: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudentSpec:
    """A student that is trained by `avrt fit` and exported, once for each seed.

    Attributes:
        stage: `sft` or `grpo`, whose configuration of that name comes first.
        source: A student of the study, or anything that `model.student.source` takes.
        data: The shards, or the traces, that it is trained on.
        config: Further configurations, which are merged in this order.
        arguments: Options of `avrt fit`.
        once: Train it with the first seed alone, for all seeds.
    """

    stage: Literal["sft", "grpo"]
    source: str
    data: str
    config: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    once: bool = False


@dataclass(frozen=True)
class TracesSpec:
    """Traces that are made once, by `avrt traces run`.

    Attributes:
        data: The shards with the questions.
        folder: Folder below `traces`; sets of one folder share its calls, and run one after another as declared.
        config: Configurations, which are merged in this order.
        arguments: Options of `avrt traces run`.
        shards: Where below the folder the shards with the traces are.
    """

    data: str
    folder: str
    config: list[str] = field(default_factory=lambda: ["traces.yaml"])
    arguments: dict[str, Any] = field(default_factory=dict)
    shards: str = "shards/train"


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark of the study.

    Attributes:
        shards: Its shards.
        config: Configurations of `avrt test`, which are merged in this order.
        difficulty: Traces whose teachers' verdicts label the questions, in `difficulty.jsonl`.
        arguments: Options of `avrt test`.
    """

    shards: str
    config: list[str]
    difficulty: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedSpec:
    """Students that are asked every question of some benchmarks under some masks, for each seed.

    Attributes:
        students: Names of students.
        benchmarks: Names of benchmarks.
        masks: Modality masks.
    """

    students: list[str]
    benchmarks: list[str]
    masks: list[str] = field(default_factory=lambda: ["av"])


@dataclass(frozen=True)
class SideSpec:
    """One side of a claim.

    Attributes:
        student: The student.
        mask: How it is asked.
        group: Restricts the questions, as in `{difficulty: easy}`: a field to group by, and its value.
        benchmark: The benchmark, where it is another than the claim's.
    """

    student: str
    mask: str = "av"
    group: dict[str, Any] | None = None
    benchmark: str | None = None


@dataclass(frozen=True)
class ClaimSpec:
    """One of the paper's orderings: the first side answers better than the second.

    Attributes:
        id: Its name.
        source: Where the paper says so.
        text: What it says.
        benchmark: The benchmark that stands for the paper's.
        first: What the paper finds better.
        second: What the paper finds worse.
        published: The paper's difference in points; None where it has no figure.
        why: Why ours may differ.
    """

    id: str
    source: str
    text: str
    benchmark: str
    first: SideSpec
    second: SideSpec
    published: float | None = None
    why: str = ""


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a further table.

    Attributes:
        name: Its head.
        benchmark: The benchmark.
        mask: The mask.
    """

    name: str
    benchmark: str
    mask: str = "av"


@dataclass(frozen=True)
class RowSpec:
    """A row of a further table.

    Attributes:
        label: What it is called.
        student: The student.
    """

    label: str
    student: str


@dataclass(frozen=True)
class TableSpec:
    """A table that the paper does not have.

    Attributes:
        title: Its title.
        columns: Its columns.
        rows: Its rows.
    """

    title: str
    columns: list[ColumnSpec]
    rows: list[RowSpec]


@dataclass(frozen=True)
class TablesSpec:
    """The tables of the page.

    Attributes:
        stand_in: A benchmark of the paper -> the one that was asked in its place.
        shown: Ids of the paper's tables.
        extra: Further tables.
    """

    stand_in: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    extra: list[TableSpec] = field(default_factory=list)


@dataclass(frozen=True)
class SensitivitySpec:
    """Students that differ in one parameter alone.

    Attributes:
        benchmark: The benchmark that they are compared on.
        parameters: Parameter -> its value -> the student.
        mask: The mask.
    """

    benchmark: str
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    mask: str = "av"


@dataclass(frozen=True)
class Figure3Spec:
    """Questions that are shown under every mask.

    Attributes:
        benchmark: The benchmark.
        student: The student.
        questions: How many.
    """

    benchmark: str
    student: str
    questions: int = 1


@dataclass(frozen=True)
class PowerSpec:
    """What is assumed before the run to tell which differences it can find.

    Attributes:
        seed_sd: Standard deviation of a student's accuracy between seeds, in points.
        discordant: Share of questions that one side alone answers right.
        questions_per_clip_correlation: Correlation of the answers about one clip.
        power: Chance of finding a difference that is there.
        level: Chance of finding one that is not.
        least: Smallest difference that counts, in points.
    """

    seed_sd: float = 2.0
    discordant: float = 0.25
    questions_per_clip_correlation: float = 0.1
    power: float = 0.8
    level: float = 0.05
    least: float = 2.0


@dataclass(frozen=True)
class Declaration:
    """A whole study.

    Attributes:
        title: Its title.
        shards: Name -> shards.
        students: Name -> a student.
        benchmarks: Name -> a benchmark.
        asked: Who is asked what.
        seeds: Seeds; all students are trained with each.
        training: `sft` or `grpo` -> what its trainings have in common.
        traces: Name -> traces, in the order in which those of one folder run.
        claims: The paper's orderings.
        tables: The tables of the page.
        sensitivity: The plot of sensitivity.
        curves: Students whose training curves are shown.
        figure3: The questions that are shown under every mask.
        power: Assumptions before the run.
    """

    title: str
    shards: dict[str, ShardsSpec]
    students: dict[str, StudentSpec]
    benchmarks: dict[str, BenchmarkSpec]
    asked: list[AskedSpec]
    seeds: list[int] = field(default_factory=lambda: [0])
    training: dict[str, TrainingSpec] = field(default_factory=dict)
    traces: dict[str, TracesSpec] = field(default_factory=dict)
    claims: list[ClaimSpec] = field(default_factory=list)
    tables: TablesSpec = field(default_factory=TablesSpec)
    sensitivity: SensitivitySpec | None = None
    curves: list[str] = field(default_factory=list)
    figure3: Figure3Spec | None = None
    power: PowerSpec = field(default_factory=PowerSpec)

    def cells(self) -> list[tuple[str, str, str]]:
        """(student, benchmark, mask) of all that is asked, each once."""
        every = ((s, b, m) for a in self.asked for s in a.students for b in a.benchmarks for m in a.masks)
        return list(dict.fromkeys(every))


def references(value: Any) -> list[tuple[str, str]]:
    """(section, name) of the folders of the study that an argument refers to."""
    if isinstance(value, str):
        return REFERENCE.findall(value)
    if isinstance(value, Mapping):
        return [found for inner in value.values() for found in references(inner)]
    if isinstance(value, (list, tuple)):
        return [found for inner in value for found in references(inner)]
    return []
