"""The paper's tables with our figures beside the published ones, as far as there are runs for them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from avrt.evaluation.result import Result
from avrt.evaluation.tables import Table, interval

NOTE = "Ours: strict accuracy in % with its 95 % interval. Published: the paper's own figures."


def paper_tables(results: Sequence[Result], stand_in: Mapping[str, str]) -> list[Table]:
    """Tables 3 to 8 and 10: those for which there is a run.

    Args:
        results: Every run.
        stand_in: Benchmark of the paper -> the one that was run in its place, such as omnibench -> nano_world.
    """
    found = {(r.student, r.benchmark, r.mask): r for r in results}
    tables = [_table(declared, found, stand_in) for declared in published()]
    return [table for table in tables if table is not None]


def published() -> list[dict[str, Any]]:
    """What the paper publishes; see `published.yaml`."""
    text = importlib.resources.files("avrt.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    tables: list[dict[str, Any]] = yaml.safe_load(text)
    return tables


def _table(
    declared: Mapping[str, Any], found: Mapping[tuple[str, str, str], Result], stand_in: Mapping[str, str]
) -> Table | None:
    columns, rows, ran = declared["columns"], [], False
    for row in declared["rows"]:
        own = [_cell(row.get("student"), column, found, stand_in) for column in columns]
        ran = ran or any(own)
        figures = row.get("published") or [None] * len(columns)
        rows.append([row["label"], *(cell or "-" for cell in own), *("-" if f is None else str(f) for f in figures)])
    if not ran:
        return None
    replaced = {c["benchmark"]: stand_in[c["benchmark"]] for c in columns if c["benchmark"] in stand_in}
    told = "".join(f" {name} was not run: {other} stands in for it." for name, other in replaced.items())
    instead = "".join(f", {other} in place of {name}" for name, other in replaced.items())
    head = ["", *(_heading(c, stand_in) for c in columns), *(f"{c['name']} (published)" for c in columns)]
    return Table(declared["id"], declared["title"] + instead, head, rows, NOTE + told)


def _heading(column: Mapping[str, Any], stand_in: Mapping[str, str]) -> str:
    """The head of a column of ours: a stand-in goes by its own name, never by that of what it stands in for."""
    name, benchmark = column["name"], column["benchmark"]
    if benchmark in stand_in:
        other = stand_in[benchmark]
        name = other if name.casefold() == benchmark.casefold() else f"{other} {name}"
    return f"{name} (ours)"


def _cell(
    student: str | None,
    column: Mapping[str, Any],
    found: Mapping[tuple[str, str, str], Result],
    stand_in: Mapping[str, str],
) -> str | None:
    benchmark = stand_in.get(column["benchmark"], column["benchmark"])
    result = found.get((student or "", benchmark, column.get("mask", "av")))
    if result is None:
        return None
    if "group" not in column:
        return interval(next(iter(result.scores.values())))
    estimate = result.groups.get(column["group"], {}).get(column["value"])
    return None if estimate is None else interval(estimate)
