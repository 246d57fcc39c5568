"""What a study declares for its report: claims, tables, sensitivity, curves, Figure 3, and the power it assumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avrt.errors import AvrtError
from avrt.evaluation.power import PowerSpec

__all__ = [
    "CellSpec", "ClaimSpec", "ColumnSpec", "ExtraTableSpec", "Figure3Spec", "PowerSpec", "ReportSpec", "RowSpec",
    "SensitivitySpec", "TablesSpec",
]  # fmt: skip


@dataclass
class CellSpec:
    """The answers of one student under one mask, or to some of the questions alone.

    Attributes:
        student: A student of the study.
        mask: The modality mask.
        group: Field of a question -> its value, such as `{difficulty: easy}`; every field has to agree.
        benchmark: A benchmark of the study; None for the claim's.
    """

    student: str
    mask: str = "av"
    group: dict[str, str] = field(default_factory=dict)
    benchmark: str | None = None


@dataclass
class ClaimSpec:
    """An ordering: the first cell is answered better than the second.

    Attributes:
        id: Unique in the study; letters, digits and `_`.
        source: Where the ordering comes from, such as `Table 4`.
        text: The ordering in a sentence.
        benchmark: The benchmark of both cells.
        first: The cell that is said to be better.
        second: The cell that it is compared with.
        published: The published difference in points, first minus second; None where there is no figure. A negative
            one says that the first is worse, and that is then what is claimed.
        why: Why ours may differ.
    """

    id: str
    source: str
    text: str
    benchmark: str
    first: CellSpec
    second: CellSpec
    published: float | None = None
    why: str = ""

    @property
    def sign(self) -> int:
        """The claimed direction of first minus second: 1 or -1."""
        return -1 if self.published is not None and self.published < 0 else 1

    def cells(self) -> tuple[tuple[str, CellSpec], tuple[str, CellSpec]]:
        """Each cell with its benchmark."""
        first, second = ((cell.benchmark or self.benchmark, cell) for cell in (self.first, self.second))
        return first, second


@dataclass
class ColumnSpec:
    """A column of a further table.

    Attributes:
        name: Its head.
        benchmark: A benchmark of the study.
        mask: The modality mask.
        group: Which questions alone; see `CellSpec`.
    """

    name: str
    benchmark: str
    mask: str = "av"
    group: dict[str, str] = field(default_factory=dict)


@dataclass
class RowSpec:
    """A row of a further table.

    Attributes:
        label: What stands before it.
        student: A student of the study.
    """

    label: str
    student: str


@dataclass
class ExtraTableSpec:
    """A table that the paper does not have.

    Attributes:
        title: Its title.
        columns: Its columns.
        rows: Its rows.
        note: How to read it.
    """

    title: str
    columns: list[ColumnSpec]
    rows: list[RowSpec]
    note: str = ""


@dataclass
class TablesSpec:
    """Which tables the report shows.

    Attributes:
        stand_in: Benchmark of the paper -> the study's in its place.
        shown: Ids of published tables (`avrt/evaluation/published.yaml`), in miniature.
        extra: Further tables.
    """

    stand_in: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    extra: list[ExtraTableSpec] = field(default_factory=list)


@dataclass
class SensitivitySpec:
    """Students that differ in one setting alone.

    Attributes:
        benchmark: The benchmark of the plot.
        parameters: Setting -> its value -> the student that was trained with it.
        mask: The modality mask.
        main: The student of the main setting; empty for the one that every parameter has.
    """

    benchmark: str = ""
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    mask: str = "av"
    main: str = ""

    def main_student(self) -> str:
        """The student of the main setting.

        Raises:
            AvrtError: If it is not given and no student, or more than one, is in every parameter.
        """
        if self.main:
            return self.main
        shared = set.intersection(*(set(values.values()) for values in self.parameters.values()))
        if len(shared) != 1:
            found = ", ".join(sorted(shared)) or "none"
            raise AvrtError(
                f"the main setting's student has to be in every parameter; in all of them: {found}",
                where="sensitivity.parameters",
                remedy="name it as sensitivity.main",
            )
        return shared.pop()


@dataclass
class Figure3Spec:
    """Questions shown under every mask.

    Attributes:
        benchmark: A benchmark of the study.
        student: The student whose words are shown.
        questions: How many.
    """

    benchmark: str
    student: str
    questions: int = 1


@dataclass(frozen=True)
class ReportSpec:
    """The part of a declaration that the report reads.

    Attributes:
        title: The study's title.
        seeds: The seeds, in order.
        claims: The orderings.
        once: Students trained with the first seed alone and shared by all.
        difficulty: Benchmark -> folder of the traces, below the study's, whose `difficulty.jsonl` labels its questions.
        tables: Which tables are shown.
        sensitivity: The plot of settings.
        curves: Students whose trainings' curves are shown.
        figure3: Which questions are shown under every mask.
        power: What is assumed.
        asked: (student, benchmark, mask) of all cells; None for whatever there is.
        fewer: Student -> with how many of the seeds, the first, it was trained; others with all.
    """

    title: str
    seeds: list[int]
    claims: list[ClaimSpec] = field(default_factory=list)
    once: frozenset[str] = frozenset()
    difficulty: Mapping[str, str] = field(default_factory=dict)
    tables: TablesSpec = field(default_factory=TablesSpec)
    sensitivity: SensitivitySpec = field(default_factory=SensitivitySpec)
    curves: list[str] = field(default_factory=list)
    figure3: Figure3Spec | None = None
    power: PowerSpec = field(default_factory=PowerSpec)
    asked: frozenset[tuple[str, str, str]] | None = None
    fewer: Mapping[str, int] = field(default_factory=dict)
