"""The study's tables: the paper's in miniature, further declared ones, the form of answers, and the power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avrt.errors import AvrtError
from avrt.evaluation.paired_effects import Effect
from avrt.evaluation.paper import published
from avrt.evaluation.statistics import Estimate, percent
from avrt.evaluation.tables import Table
from avrt.study.cells import Cells, Measure, reasoning_words
from avrt.study.claims import ExtraTableSpec, PowerSpec, TablesSpec
from avrt.study.verdicts import ClaimResult

NONE = "-"


def verdict_table(results: Sequence[ClaimResult], left_out: Mapping[str, str]) -> Table:
    """Each ordering as a row: published difference, ours with its interval, corrected p, verdict, why it may differ."""
    rows = [
        [
            r.claim.text,
            r.verdict,
            points(r.effect),
            NONE if r.claim.published is None else f"{r.claim.published:+.1f}",
            p_value(r.p_corrected),
            f"{percent(r.first)} - {percent(r.second)}",
            r.claim.source,
            f"{r.claim.benchmark}, {r.effect.questions} questions, {seeds_told(r.effect.seeds)}",
            " ".join(part for part in (r.claim.why, f"({r.shared})" if r.shared else "") if part) or NONE,
        ]
        for r in results
    ]
    head = [
        "ordering", "verdict", "our difference", "published difference", "p, corrected", "accuracies", "source",
        "asked", "why it may differ",
    ]  # fmt: skip
    note = "Differences in points with 95 % intervals over seeds and clips; p after Holm's correction over all rows."
    if left_out:
        note += f" Not compared: {'; '.join(f'{text} ({why})' for text, why in left_out.items())}."
    return Table("verdicts", "The paper's orderings", head, rows, note)


def apart_table(results: Sequence[ClaimResult]) -> Table:
    """Each ordering by what is read: the answer in any form, the answer in the asked form, and the form alone."""
    rows = [[r.claim.text, points(r.effect), points(r.strict), points(r.form)] for r in results]
    head = ["ordering", "by the headline scorer", "by the strict scorer", "share of answers in the asked form"]
    note = "Differences in points with 95 % intervals, not corrected for their number."
    return Table("apart", "The orderings by form and by answer", head, rows, note)


def power_table(results: Sequence[ClaimResult], assumed: PowerSpec) -> Table:
    """What each comparison could find, by the assumptions stated before the run and by the error that it then had."""
    rows = [
        [
            r.claim.text,
            f"{r.stated.error:.1f}",
            f"{r.stated.smallest:.1f}",
            NONE if r.stated.published is None else f"{percent(r.stated.published)} %",
            f"{r.had.error:.1f}",
            f"{r.had.smallest:.1f}",
            NONE if r.had.published is None else f"{percent(r.had.published)} %",
            f"{100 * r.effect.seed_sd:.1f}",
        ]
        for r in results
    ]
    head = [
        "ordering", "standard error, assumed", "smallest difference found, assumed",
        "power for the published one, assumed",
        "standard error, had", "smallest difference found, had", "power for the published one, had", "sd of seeds, had",
    ]  # fmt: skip
    note = assumptions(assumed, len(results))
    return Table("power", "Power, as stated before the run and as it was", head, rows, note)


def assumptions(assumed: PowerSpec, claims: int) -> str:
    """What is assumed of power, and what "found" means, in words."""
    return (
        f"In points. Found means: with a chance of {100 * assumed.power:g} % at the level {assumed.level:g} divided by "
        f"the {claims} claims, the first step of Holm's correction. Assumed before the run: the difference of "
        f"two students varies over seeds by {assumed.seed_sd:g} points (sd); one of two alone is right on "
        f"{100 * assumed.discordant:g} % of the questions; differences on two questions about one clip correlate by "
        f"{assumed.questions_per_clip_correlation:g}, those of one question in two seeds by "
        f"{assumed.seeds_correlation:g}; a group is {100 * assumed.group_share:.0f} % of the questions. A difference "
        f"below {assumed.least:g} points does not count."
    )


def form_table(cells: Cells, mask: str = "av") -> Table:
    """Format, reasoning and answer apart: accuracy by two scorers, kept form, and the length of the reasoning."""
    rows = []
    for (student, benchmark, of), runs in cells.runs.items():
        if of != mask:
            continue
        figures = [_figure(cells, student, benchmark, of, {}, m) for m in ("headline", "strict", "well_formed")]
        words = reasoning_words(runs.values())
        rows.append([
            student, benchmark, str(len(runs)), *figures, _right_of_well_formed(cells, student, benchmark, of),
            NONE if words is None else f"{words:.0f}",
        ])  # fmt: skip
    head = [
        "student", "benchmark", "seeds", "right, by the headline scorer", "right, by the strict scorer",
        "in the asked form", "right, of those in form", "words of reasoning",
    ]  # fmt: skip
    note = "In % with 95 % intervals over seeds and clips. The strict scorer and the form are those of the rewards."
    return Table("form", f"Format, reasoning and answer apart ({mask})", head, rows, note)


def paper_table(cells: Cells, name: str, stand_in: Mapping[str, str]) -> Table | None:
    """A published table in miniature; None if no student of its rows was asked.

    Our figures and the published ones stand in columns of their own.

    Raises:
        AvrtError: If there is no published table of that id.
    """
    declared = next((table for table in published() if table["id"] == name), None)
    if declared is None:
        known = ", ".join(table["id"] for table in published())
        raise AvrtError(f"no published table {name}", where="tables.shown", remedy=f"one of {known}")
    columns = [column for column in declared["columns"] if column["benchmark"] in stand_in]
    rows = []
    for row in declared["rows"]:
        ours = [_of_column(cells, row, column, stand_in) for column in columns]
        figures = row.get("published") or [None] * len(declared["columns"])
        beside = [
            NONE if figure is None else f"{figure:.1f}"
            for column, figure in zip(declared["columns"], figures, strict=True)
            if column in columns
        ]
        if any(figure != NONE for figure in ours):
            rows.append([row["student"], *ours, row["label"], *beside])
    if not rows:
        return None
    head = [
        "student", *(_head(c, stand_in) for c in columns), "the paper's row",
        *(f"published: {c['name']}" for c in columns),
    ]  # fmt: skip
    title = declared["title"].partition(": ")
    note = (
        "Ours: accuracy in % with its 95 % interval over seeds and clips, of miniature students in a synthetic world. "
        "The published figures are of another world, for the order of rows alone; no two figures are comparable."
    )
    return Table(f"{name}_miniature", f"{title[0]} in miniature: {title[2]}", head, rows, note, short=title[0])


def extra_table(cells: Cells, declared: ExtraTableSpec, number: int) -> Table:
    """A table that the declaration describes."""
    rows = [
        [row.label, *(_figure(cells, row.student, c.benchmark, c.mask, c.group) for c in declared.columns)]
        for row in declared.rows
    ]
    note = declared.note or "Accuracy in % with its 95 % interval over seeds and clips."
    return Table(f"extra-{number}", declared.title, ["student", *(c.name for c in declared.columns)], rows, note)


def all_tables(cells: Cells, declared: TablesSpec) -> list[Table]:
    """The paper's tables in miniature, further ones, and the form of answers."""
    of_paper = [paper_table(cells, name, declared.stand_in) for name in declared.shown]
    further = [extra_table(cells, table, i) for i, table in enumerate(declared.extra, 1)]
    return [*(table for table in of_paper if table is not None), *further, form_table(cells)]


def points(effect: Effect) -> str:
    """A difference in points with its interval."""
    return Estimate(effect.difference, effect.low, effect.high, effect.questions).percent(signed=True)


def seeds_told(number: int) -> str:
    """A number of seeds in words."""
    return "1 seed" if number == 1 else f"{number} seeds"


def p_value(p: float) -> str:
    """A p-value as tables show it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _head(column: Mapping[str, Any], stand_in: Mapping[str, str]) -> str:
    """The head of our column: the study's benchmark, and what of it where a table has several columns of one."""
    apart = "group" in column or "mask" in column or column["name"] in ("AV", "all")
    return f"{stand_in[column['benchmark']]} {column['name']}" if apart else stand_in[column["benchmark"]]


def _of_column(cells: Cells, row: Mapping[str, Any], column: Mapping[str, Any], stand_in: Mapping[str, str]) -> str:
    mask = row.get("mask", column.get("mask", "av"))
    group = {column["group"]: column["value"]} if "group" in column else {}
    return _figure(cells, row.get("student", ""), stand_in[column["benchmark"]], mask, group)


def _figure(
    cells: Cells, student: str, benchmark: str, mask: str, group: Mapping[str, str], measure: Measure = "headline"
) -> str:
    """A cell's mean over seeds with its interval; a dash where it was not asked, or no question is in the group."""
    if not cells.has(student, benchmark, mask):
        return NONE
    found = cells.means(benchmark, mask, group, measure).get(student)
    if found is None:
        return NONE
    return Estimate(found.difference, max(0.0, found.low), min(1.0, found.high), found.questions).percent()


def _right_of_well_formed(cells: Cells, student: str, benchmark: str, mask: str) -> str:
    """Accuracy of the answers that keep the form, in %."""
    form = cells.grid(student, benchmark, mask, {}, "well_formed").credit
    right = cells.grid(student, benchmark, mask, {}, "strict").credit
    return percent(float((form * right).sum() / form.sum())) if form.sum() else NONE
