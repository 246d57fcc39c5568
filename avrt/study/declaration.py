"""What a study consists of: shards, students, traces, benchmarks, who is asked what, and what is claimed of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from avrt.study.claims import ClaimSpec, Figure3Spec, PowerSpec, SensitivitySpec, TablesSpec

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
        seeds: With how many of the study's seeds, the first, it is trained; None for all. Comparisons are over these.
    """

    stage: Literal["sft", "grpo"]
    source: str
    data: str
    config: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    once: bool = False
    seeds: int | None = None


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
class Declaration:
    """A whole study.

    Attributes:
        title: Its title.
        shards: Name -> shards.
        students: Name -> a student.
        benchmarks: Name -> a benchmark.
        asked: Who is asked what.
        seeds: Seeds; students are trained with each, unless they name a smaller number.
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
    sensitivity: SensitivitySpec = field(default_factory=SensitivitySpec)
    curves: list[str] = field(default_factory=list)
    figure3: Figure3Spec | None = None
    power: PowerSpec = field(default_factory=PowerSpec)

    def seeds_of(self, student: str) -> list[int]:
        """The seeds that a student is trained with; one of `once` stands for all."""
        return self.seeds[: self.students[student].seeds]

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
