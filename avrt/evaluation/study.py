"""Tables across runs that the paper does not have: all runs, every scorer, paired comparisons, ledger, protocols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avrt.errors import AvrtError
from avrt.evaluation.protocol import differences
from avrt.evaluation.records import PREDICTIONS, Prediction, read_predictions
from avrt.evaluation.result import RESULT, Result, correctness
from avrt.evaluation.scorers import SCORERS, score
from avrt.evaluation.statistics import bootstrap, compare
from avrt.evaluation.tables import Table, interval, percent

MODES = ("av", "a", "v", "text", "shuffled")


@dataclass(frozen=True)
class Run:
    """A result with its predictions.

    Attributes:
        folder: Where both are.
        result: The result.
        predictions: The predictions, in the order of the shards.
    """

    folder: Path
    result: Result
    predictions: list[Prediction]

    @property
    def name(self) -> str:
        """Student, benchmark and mask."""
        return f"{self.result.student} / {self.result.benchmark} / {self.result.mask}"


def read_runs(root: Path) -> list[Run]:
    """Every run below a folder, but for repeated ones.

    Raises:
        AvrtError: If there is none.
    """
    paths = [path for path in sorted(root.rglob(RESULT)) if path.parent.name != "replay"]
    if not paths:
        raise AvrtError(f"no {RESULT} below", where=root, remedy="run: avrt test or avrt benchmark")
    return [Run(path.parent, Result.load(path), read_predictions(path.parent / PREDICTIONS)) for path in paths]


def study_tables(runs: Sequence[Run]) -> list[Table]:
    """All of them, as far as the runs allow."""
    tables = [
        overview(runs),
        scorers(runs),
        groups(runs),
        comparisons(runs),
        ledger(runs),
        claimed(runs),
        protocols(runs),
    ]
    return [table for table in tables if table.rows]


def overview(runs: Sequence[Run]) -> Table:
    """Every run, strict and official, with what could not be read or asked."""
    rows = []
    for run in runs:
        scores, counts = run.result.scores, run.result.counts
        strict = next(iter(scores.values()))
        official = interval(scores[run.result.official]) if run.result.official else "-"
        expected = f"{counts['questions']} of {counts['expected']}" if counts["expected"] else str(counts["questions"])
        several = "; ".join(f"{name} {percent(e['accuracy'])}" for name, e in run.result.several.items())
        rows.append(
            [run.name, expected, interval(strict), official, percent(strict["unparsable_share"]), str(counts["failed"]),
             str(counts["cut_off"]), several or "-", run.result.fingerprint]
        )  # fmt: skip
    head = [
        "run",
        "questions",
        "strict",
        "official",
        "unparsable %",
        "failed",
        "cut off",
        "several answers",
        "protocol",
    ]
    return Table("runs", "All runs", head, rows, "Accuracy in % with its 95 % bootstrap interval.")


def scorers(runs: Sequence[Run]) -> Table:
    """What the choice of scorer does to one and the same answers."""
    rows = []
    for run in runs:
        known = [p for p in run.predictions if p.answer is not None]
        cells = []
        for name in SCORERS:
            judged = [score(name, r, p.sample()) for p in known for r in p.responses]
            right = sum(correctness(known, name)) / max(1, len(known))
            cells.append(f"{percent(right)} ({percent(sum(v.choice is None for v in judged) / max(1, len(judged)))})")
        rows.append([run.name, *cells])
    return Table(
        "scorers", "The same answers under every scorer", ["run", *SCORERS], rows, "In brackets: unparsable %."
    )


def groups(runs: Sequence[Run]) -> Table:
    """Accuracy by group."""
    rows = [
        [run.name, field, value, str(estimate["count"]), interval(estimate)]
        for run in runs
        for field, parts in run.result.groups.items()
        for value, estimate in parts.items()
    ]
    return Table("groups", "By group", ["run", "grouped by", "group", "questions", "strict"], rows)


def comparisons(runs: Sequence[Run]) -> Table:
    """Each pair of students on the same questions under the same mask."""
    together: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        together[run.result.benchmark, run.result.mask].append(run)
    rows = []
    for (benchmark, mask), same in together.items():
        for i, first in enumerate(same):
            for second in same[i + 1 :]:
                one, two = _verdicts(first), _verdicts(second)
                if one.keys() != two.keys():
                    continue
                found = compare([one[k] for k in one], [two[k] for k in one])
                low, high = found.difference.low, found.difference.high
                rows.append(
                    [f"{first.result.student} - {second.result.student}", f"{benchmark} / {mask}",
                     f"{100 * found.difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                     str(found.only_first), str(found.only_second), f"{found.p_value:.3g}"]
                )  # fmt: skip
    head = ["students", "on", "difference", "only first right", "only second right", "McNemar p"]
    return Table("comparisons", "Paired comparisons", head, rows, "Points with 95 % paired bootstrap interval.")


def ledger(runs: Sequence[Run]) -> Table:
    """Which questions need both senses: right with both only, and right with none at all."""
    together: dict[tuple[str, str], dict[str, dict[str, bool]]] = defaultdict(dict)
    for run in runs:
        together[run.result.student, run.result.benchmark][run.result.mask] = _verdicts(run)
    rows = []
    for (student, benchmark), modes in together.items():
        if not {"av", "a", "v"} <= modes.keys():
            continue
        ids = [k for k in modes["av"] if all(k in modes[m] for m in MODES if m in modes)]
        accuracy = [interval_of([modes[m][k] for k in ids]) if m in modes else "-" for m in MODES]
        both = interval_of([modes["av"][k] and not modes["a"][k] and not modes["v"][k] for k in ids])
        none = interval_of([modes["text"][k] for k in ids]) if "text" in modes else "-"
        lost = interval_of([modes["av"][k] and not modes["shuffled"][k] for k in ids]) if "shuffled" in modes else "-"
        rows.append([f"{student} / {benchmark}", str(len(ids)), *accuracy, both, none, lost])
    head = ["run", "questions", *MODES, "only with both", "with neither", "lost with foreign sound"]
    return Table("ledger", "Modality ledger", head, rows, "Shares of questions in % with 95 % bootstrap interval.")


def interval_of(values: Sequence[bool]) -> str:
    """A share with its interval, in per cent."""
    estimate = bootstrap([float(v) for v in values])
    return f"{percent(estimate.mean)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def claimed(runs: Sequence[Run]) -> Table:
    """How often reasoning claims a sense that was hidden."""
    rows = [
        [run.name, sense, f"{percent(f['claimed'])} [{percent(f['low'])}, {percent(f['high'])}]", f["example"] or "-"]
        for run in runs
        for sense, f in run.result.honesty.items()
    ]
    note = (
        "Share of answers with a sentence that claims it; a rule-based detector whose errors are in docs/benchmarks.md."
    )
    return Table("claims", "Claims of a hidden sense", ["run", "hidden", "claimed %", "for example"], rows, note)


def protocols(runs: Sequence[Run]) -> Table:
    """What differs between the protocols of runs of one benchmark, but for what a mask or a student is."""
    first: dict[str, Run] = {}
    rows = []
    expected = {
        "prompt.senses",
        "prompt.hidden",
        "shuffle_sound",
        "student.weights",
        "student.dtype",
        "seed",
        "shuffle_seed",
    }
    for run in runs:
        base = first.setdefault(run.result.benchmark, run)
        for key, (old, new) in differences(base.result.protocol, run.result.protocol).items():
            if key not in expected:
                rows.append([run.name, key, str(old), str(new)])
    head = ["run", "field", "first run of the benchmark", "here"]
    note = "Scores under different protocols are not comparable."
    return Table("protocols", "Protocol differences", head, rows, note)


def _verdicts(run: Run) -> dict[str, bool]:
    known = [p for p in run.predictions if p.answer is not None]
    scorer = next(iter(run.result.scores))
    return {p.id: share > 0.5 for p, share in zip(known, correctness(known, scorer), strict=True)}


def by_benchmark(runs: Sequence[Run]) -> Mapping[str, list[Run]]:
    """Runs by benchmark, for plots."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.result.benchmark].append(run)
    return found
