"""The paper's tables, and those of others: our figures, each with its rule, beside the published ones.

Each of our rows names its protocol ("asked by"). A published figure is shown beside ours only if our run agrees with
everything that the figure's protocol card asserts. Otherwise the cell lists the differences, and the figure gets a row
of its own. Miniatures and stand-ins get separate tables, under the names of the student and the benchmark that ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.cards import Card
from avrt.evaluation.statistics import Estimate
from avrt.evaluation.tables import Table, with_rule
from avrt.packaged import packaged

PUBLISHED = "as published"
NOTE = "Ours: accuracy in % with its 95 % interval and its scoring rule."
Declared = Mapping[str, Any]
_SIZE = re.compile(r"\b(\d+)B\b")


@cache
def _document() -> dict[str, Any]:
    text = packaged("avrt.evaluation", "published.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def published() -> list[dict[str, Any]]:
    """The tables of the paper and of others, as `published.yaml` declares them."""
    tables: list[dict[str, Any]] = _document()["tables"]
    return tables


def cards() -> dict[str, Card]:
    """The protocol cards of the published figures, by name."""
    return {name: Card(name, **fields) for name, fields in _document()["cards"].items()}


def sizes() -> dict[str, int]:
    """Benchmark -> number of questions when complete."""
    return dict(_document()["sizes"])


def paper_tables(runs: Sequence[BenchmarkRun], stand_in: Mapping[str, str]) -> list[Table]:
    """Every published table for which there is a run, and the separate tables of stand-ins and miniatures.

    Args:
        runs: Every run.
        stand_in: Benchmark of the paper -> the one that ran in its place, such as omnibench -> nano_world.
    """
    own = [run for run in runs if not run.result.miniature]
    tables = [_table(declared, own) for declared in published()]
    tables += [_stand_in_table(declared, runs, stand_in) for declared in published()]
    return [table for table in tables if table is not None]


@dataclass(frozen=True)
class _Line:
    """One row of a table: the runs of one student under one protocol."""

    label: str
    asked_by: str
    pairs: Sequence[Sequence[tuple[BenchmarkRun, Declared]]]
    """For each column the runs with the column; a cell shows all of them, with their folders."""

    @property
    def texts(self) -> list[str]:
        return ["; ".join(_figure(run, column, len(pairs) > 1) for run, column in pairs) or "-" for pairs in self.pairs]


def _table(declared: Declared, runs: Sequence[BenchmarkRun]) -> Table | None:
    """A table as published, with the rows of ours that belong in it."""
    columns, known = declared["columns"], cards()
    rows: list[list[str]] = []
    ran, used = False, dict.fromkeys([declared["card"]])
    for row in declared["rows"]:
        card = known[row.get("card", declared["card"])]
        figures = row.get("published") or [None] * len(columns)
        lines = _lines(row, columns, runs, {}, row["label"])
        ran, shown = ran or bool(lines), set()
        own: list[list[str]] = []
        for line in lines:
            beside = []
            for i, (pairs, figure) in enumerate(zip(line.pairs, figures, strict=True)):
                differ = [d for run, column in pairs for d in _differences(card, run, row, column)]
                alike = bool(pairs) and not differ
                if alike:
                    shown.add(i)
                beside.append("-" if figure is None or not pairs else str(figure) if alike else _differs(differ))
            own.append([line.label, line.asked_by, *line.texts, *beside])
        if not own or any(f is not None and i not in shown for i, f in enumerate(figures)):
            cells = ["-" if f is None else str(f) for f in figures]
            source = PUBLISHED if any(f is not None for f in figures) else "-"
            own.insert(0, [row["label"], source, *["-"] * len(columns), *cells])
        rows += own
        used.setdefault(card.name)
    if not ran:
        return None
    head = ["", "asked by", *(f"{c['name']} (ours)" for c in columns), *(f"{c['name']} (published)" for c in columns)]
    sources = " ".join(f"Published: {known[name].source} ({_asserted(known[name])})." for name in used)
    note = " ".join(part for part in (NOTE, sources, declared.get("note", "")) if part)
    return Table(declared["id"], declared["title"], head, rows, note)


def _stand_in_table(declared: Declared, runs: Sequence[BenchmarkRun], stand_in: Mapping[str, str]) -> Table | None:
    """The same table for miniatures and stand-ins: under their own names, and without published figures."""
    columns = declared["columns"]
    rows: list[list[str]] = []
    heads: list[str | None] = [None] * len(columns)
    replaced: dict[str, str] = {}
    for row in declared["rows"]:
        for line in _lines(row, columns, runs, stand_in, None):
            rows.append([line.label, line.asked_by, *line.texts])
            for i, pairs in enumerate(line.pairs):
                for run, column in pairs:
                    heads[i] = _place(column, run.result.benchmark)
                    if column["benchmark"] in stand_in:
                        replaced[column["benchmark"]] = run.result.benchmark
    if not rows:
        return None
    used = [i for i, head in enumerate(heads) if head is not None]
    rows = [[*row[:2], *(row[2 + i] for i in used)] for row in rows]
    instead = ", ".join(f"{other} in place of {name}" for name, other in replaced.items())
    title = declared["title"].partition(": ")
    stand_ins = " ".join(f"{name} was not run: {other} stands in for it." for name, other in replaced.items())
    note = f"{NOTE} {stand_ins or 'The students are miniatures.'} No published figure is comparable."
    return Table(
        f"{declared['id']}_stand_in",
        f"After {title[0]}, in miniature or by a stand-in: {title[2]}; {instead or 'nano students'}",
        ["", "asked by", *(str(heads[i]) for i in used)],
        rows,
        note,
        short=f"After {title[0]}: {title[2].partition(' (')[0]}",
    )


def _place(column: Declared, benchmark: str) -> str:
    """The head of a stand-in's column: the name of the benchmark that ran, and the mask or group."""
    name = column["name"]
    apart = "group" in column or "mask" in column or name in ("AV", "all")
    asked = benchmark if benchmark != column["benchmark"] else f"nano student on questions of {benchmark}"
    return f"{asked} {name}" if apart else asked


def _lines(
    row: Declared,
    columns: Sequence[Declared],
    runs: Sequence[BenchmarkRun],
    stand_in: Mapping[str, str],
    label: str | None,
) -> list[_Line]:
    """Our rows for a declared one: a row for each student and protocol.

    Args:
        row: The declared row.
        columns: The table's columns.
        runs: The runs to choose from.
        stand_in: Benchmark -> the one in its place.
        label: The row's label. None for the student's own name; then only miniatures and stand-ins are used.
    """
    found: dict[tuple[str, str], list[list[tuple[BenchmarkRun, Declared]]]] = {}
    for i, column in enumerate(columns):
        benchmark = stand_in.get(column["benchmark"], column["benchmark"])
        mask = row.get("mask", column.get("mask", "av"))
        for run in runs:
            result = run.result
            if (result.student, result.benchmark, result.mask) != (row.get("student"), benchmark, mask):
                continue
            if label is None and not (result.miniature or column["benchmark"] in stand_in):
                continue
            if "group" in column and column["value"] not in result.groups.get(column["group"], {}):
                continue
            asked = result.asked_by + (f" ({'; '.join(result.shard_mismatches)})" if result.shard_mismatches else "")
            asked += result.other_engine
            key = (_label(label, run), asked)
            found.setdefault(key, [[] for _ in columns])[i].append((run, column))
    return [_Line(name, asked, pairs) for (name, asked), pairs in found.items()]


def _label(label: str | None, run: BenchmarkRun) -> str:
    """The row's label: the declared one, unless the run names another or its student has another size."""
    own, parameters = run.result.environment.get("label"), run.result.environment.get("parameters")
    if own is None and label is not None and parameters and (size := _SIZE.search(label)):
        billions = int(parameters) / 1e9
        # With its vision and audio towers a model has up to twice the parameters that its name says.
        if not 0.9 <= billions / int(size[1]) <= 2:
            own = f"{run.student} ({billions:.1f} billion parameters)"
    return str(own or label or run.student)


def _figure(run: BenchmarkRun, column: Declared, with_folder: bool) -> str:
    """One figure with its rule, and with the run's folder where a cell has several figures."""
    result = run.result
    groups = result.groups
    accuracy = Estimate.from_record(groups[column["group"]][column["value"]]) if "group" in column else result.accuracy
    return with_rule(accuracy, result.headline) + (f" [{run.suffix or run.folder.name}]" if with_folder else "")


def _differences(card: Card, run: BenchmarkRun, row: Declared, column: Declared) -> list[str]:
    unasserted = (*column.get("unasserted", ()), *row.get("unasserted", ()))
    return card.differences(run.result, unasserted, sizes().get(run.result.benchmark))


def _differs(differences: Sequence[str]) -> str:
    return f"differs: {'; '.join(dict.fromkeys(differences))}"


def _asserted(card: Card) -> str:
    """What a card asserts, and what its source does not say, in words."""
    inside = card.asserts.get("audio_in_video")
    words = {
        "complete": "all questions",
        "audio_seconds": "all of the audio",
        "frames": f"{card.asserts.get('frames')} frames",
        "asked_by": f"asked by {card.asserts.get('asked_by')}",
        "audio_in_video": "audio inside the video" if inside else "audio as a separate item",
        "rule": f"{card.asserts.get('rule')} rule",
    }
    return f"known: {', '.join(words[key] for key in card.asserts)}; not known: {card.silent}"
