"""Tables across runs that the paper does not have: all runs, errors, scorers, paired comparisons, ledger, protocols."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from avrt.evaluation.protocol import differences
from avrt.evaluation.result import verdicts, worth
from avrt.evaluation.runs import OF_MASK, OF_STUDENT, Run, asked_alike, same_student
from avrt.evaluation.scorers import SCORERS
from avrt.evaluation.statistics import bootstrap, compare
from avrt.evaluation.tables import Table, interval, percent

MODES = ("av", "a", "v", "text", "shuffled")


def study_tables(runs: Sequence[Run]) -> list[Table]:
    """All of them, as far as the runs allow."""
    tables = [
        overview(runs),
        errors(runs),
        scorers(runs),
        groups(runs),
        yes_no(runs),
        comparisons(runs),
        ledger(runs),
        claimed(runs),
        protocols(runs),
    ]
    return [table for table in tables if table.rows or table.note.startswith("Not compared")]


def overview(runs: Sequence[Run]) -> Table:
    """Every run with its rule, strict and official, and what could not be read or asked."""
    rows = []
    for run in runs:
        result = run.result
        scores, counts = result.scores, result.counts
        strict = next(iter(scores.values()))
        official = interval(scores[result.official]) if result.official else "-"
        expected = f"{counts['questions']} of {counts['expected']}" if counts["expected"] else str(counts["questions"])
        several = "; ".join(f"{name} {percent(e['accuracy'])}" for name, e in result.several.items())
        rows.append(
            [run.name, result.asked_by, expected, ruled(result.score, result.headline), interval(strict), official,
             percent(result.score["unparsable_share"]), str(counts["failed"]), str(counts["cut_off"]),
             several or "-", "; ".join(result.unfit) or "-", result.fingerprint]
        )  # fmt: skip
    head = [
        "run",
        "asked by",
        "questions",
        "headline",
        "strict",
        "official",
        "unparsable %",
        "failed",
        "cut off",
        "several answers",
        "shards do not fit",
        "protocol",
    ]
    note = "Accuracy in % with its 95 % bootstrap interval; the headline names its rule, which unparsable % is by too."
    return Table("runs", "All runs", head, rows, note)


def ruled(estimate: dict[str, float], rule: str) -> str:
    """An accuracy with its interval and the rule that it is by."""
    return f"{interval(estimate)}, {rule} rule"


def errors(runs: Sequence[Run]) -> Table:
    """Wrong answers of each run: those in no readable form, and those that choose another option."""
    rows = []
    for run in runs:
        judged = [each for each in verdicts(run.known, run.result.headline) if each]
        shares = {
            "right": [worth(each) for each in judged],
            "invalid": [sum((1 - v.credit) * (v.choice is None) for v in each) / len(each) for each in judged],
            "wrong": [sum((1 - v.credit) * (v.choice is not None) for v in each) / len(each) for each in judged],
        }
        count = max(1, len(run.known))
        told = [percent(sum(values) / count) for values in shares.values()]
        rows.append([run.name, run.result.headline, *told, percent((len(run.known) - len(judged)) / count)])
    head = ["run", "rule", "right %", "invalid format (IFA) %", "wrong answer (logic) %", "could not be asked %"]
    note = "Shares of all questions. Invalid: the rule cannot read an option; wrong: it reads another one."
    return Table("errors", "Errors: invalid format and wrong answer", head, rows, note)


def scorers(runs: Sequence[Run]) -> Table:
    """What the choice of scorer does to one and the same answers."""
    rows = []
    for run in runs:
        cells = []
        for name in SCORERS:
            judged = verdicts(run.known, name)
            right = sum(worth(each) for each in judged) / max(1, len(judged))
            answers = [v for each in judged for v in each]
            unread = sum(v.choice is None for v in answers) / max(1, len(answers))
            cells.append(f"{percent(right)} ({percent(unread)})")
        rows.append([run.name, *cells])
    return Table(
        "scorers", "The same answers under every scorer", ["run", *SCORERS], rows, "In brackets: unparsable %."
    )


def groups(runs: Sequence[Run]) -> Table:
    """Accuracy by group."""
    rows = [
        [run.name, field, value, str(estimate["count"]), ruled(estimate, run.result.headline)]
        for run in runs
        for field, parts in run.result.groups.items()
        for value, estimate in parts.items()
    ]
    return Table("groups", "By group", ["run", "grouped by", "group", "questions", "accuracy"], rows)


def yes_no(runs: Sequence[Run]) -> Table:
    """Figures of yes/no questions, which tell a student that always says Yes."""
    shares = ("accuracy", "precision", "recall", "f1", "yes")
    rows = []
    for run in runs:
        for task, found in run.result.score.get("yes_no", {}).items():
            told = [percent(found[name]) for name in shares]
            rows.append([run.name, run.result.headline, task, str(found["answers"]), *told, str(found["unread"])])
    head = ["run", "rule", "task", "answers", "accuracy %", "precision %", "recall %", "F1 %", "Yes %", "not read"]
    note = "Yes is the positive class; an answer that is not read is wrong, and no Yes."
    return Table("yes_no", "Yes/no questions", head, rows, note)


def comparisons(runs: Sequence[Run]) -> Table:
    """Each pair of students on the same questions under the same mask, asked alike and scored by the same rule."""
    together: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        together[run.result.benchmark, run.result.mask].append(run)
    rows, unlike = [], 0
    for (benchmark, mask), same in together.items():
        for i, first in enumerate(same):
            for second in same[i + 1 :]:
                one, two = first.verdicts(), second.verdicts()
                if asked_alike(first) != asked_alike(second) or one.keys() != two.keys():
                    unlike += 1
                    continue
                found = compare([one[k] for k in one], [two[k] for k in one])
                low, high = found.difference.low, found.difference.high
                rows.append(
                    [f"{first.subject} - {second.subject}", f"{benchmark} / {mask}", first.result.headline,
                     f"{100 * found.difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                     str(found.only_first), str(found.only_second), f"{found.p_value:.3g}"]
                )  # fmt: skip
    head = ["students", "on", "rule", "difference", "only first right", "only second right", "McNemar p"]
    note = "Points with 95 % paired bootstrap interval."
    if unlike:
        pairs = "1 pair of runs" if unlike == 1 else f"{unlike} pairs of runs"
        note = f"Not compared: {pairs} of one benchmark and mask that differ in protocol, rule or questions. {note}"
    return Table("comparisons", "Paired comparisons", head, rows, note)


def ledger(runs: Sequence[Run]) -> Table:
    """Which questions need both senses: right with both only, and right with none at all."""
    together: dict[tuple[str, str, str], dict[str, Run]] = defaultdict(dict)
    for run in runs:
        together[run.subject.partition(" [")[0], run.result.benchmark, same_student(run)].setdefault(
            run.result.mask, run
        )
    rows = []
    for (_, benchmark, _), of_mask in together.items():
        if not {"av", "a", "v"} <= of_mask.keys():
            continue
        modes = {mask: run.verdicts() for mask, run in of_mask.items()}
        ids = [k for k in modes["av"] if all(k in modes[m] for m in MODES if m in modes)]
        accuracy = [interval_of([modes[m][k] for k in ids]) if m in modes else "-" for m in MODES]
        both = interval_of([modes["av"][k] and not modes["a"][k] and not modes["v"][k] for k in ids])
        none = interval_of([modes["text"][k] for k in ids]) if "text" in modes else "-"
        lost = interval_of([modes["av"][k] and not modes["shuffled"][k] for k in ids]) if "shuffled" in modes else "-"
        full = of_mask["av"]
        rows.append([f"{full.subject} / {benchmark}", full.result.headline, str(len(ids)), *accuracy, both, none, lost])
    head = ["run", "rule", "questions", *MODES, "only with both", "with neither", "lost with foreign sound"]
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
    expected = {*OF_MASK, *OF_STUDENT} - {"student.attention"}
    for run in runs:
        base = first.setdefault(run.result.benchmark, run)
        for key, (old, new) in differences(base.result.protocol, run.result.protocol).items():
            if key not in expected:
                rows.append([run.name, key, str(old), str(new)])
    head = ["run", "field", "first run of the benchmark", "here"]
    note = "Scores under different protocols are not comparable."
    return Table("protocols", "Protocol differences", head, rows, note)
