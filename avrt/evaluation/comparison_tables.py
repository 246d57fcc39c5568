"""Tables across runs that the paper does not have: all runs, errors, scorers, paired comparisons, modality ablation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from avrt.evaluation.benchmark_runs import MASK_FIELDS, STUDENT_FIELDS, BenchmarkRun, ablation_key, comparison_key
from avrt.evaluation.protocol import differences, in_mask_order
from avrt.evaluation.result import in_group_order, mean_credit, verdicts
from avrt.evaluation.scorers import SCORERS
from avrt.evaluation.statistics import Estimate, bootstrap, compare, percent
from avrt.evaluation.tables import Table, with_rule

ABLATION_MASKS = ("av", "a", "v", "text", "shuffled")


def comparison_tables(runs: Sequence[BenchmarkRun]) -> list[Table]:
    """All of them, as far as the runs allow."""
    tables = [
        overview(runs),
        errors(runs),
        scorers(runs),
        groups(runs),
        yes_no(runs),
        comparisons(runs),
        modality_ablation(runs),
        modality_hallucination(runs),
        protocols(runs),
    ]
    return [table for table in tables if table.rows or table.note.startswith("Not compared")]


def overview(runs: Sequence[BenchmarkRun]) -> Table:
    """Every run with its headline, strict and official accuracy, and the counts of what went wrong."""
    rows = []
    for run in runs:
        result, counts = run.result, run.result.counts
        official = result.official_accuracy
        expected = f"{counts['questions']} of {counts['expected']}" if counts["expected"] else str(counts["questions"])
        multi = "; ".join(f"{name} {percent(e['accuracy'])}" for name, e in result.multi_sample.items())
        rows.append(
            [run.name, result.asked_by, answered_by(run), expected, with_rule(result.accuracy, result.headline),
             result.strict_accuracy.percent(), official.percent() if official else "-",
             percent(result.headline_score["unparsable_share"]), str(counts["failed"]), str(counts["cut_off"]),
             multi or "-", "; ".join(result.shard_mismatches) or "-", result.fingerprint]
        )  # fmt: skip
    head = [
        "run", "asked by", "answered by", "questions", "headline", "strict", "official", "unparsable %", "failed",
        "cut off", "majority, pass@k", "shard mismatches", "protocol"
    ]  # fmt: skip
    note = "Accuracy in % with its 95 % bootstrap interval. The headline names its rule; unparsable % is by that rule."
    return Table("runs", "All runs", head, rows, note)


def answered_by(run: BenchmarkRun) -> str:
    """The engine that answered, with its version, or how the native one decoded."""
    decoding = run.result.environment.get("decoding")
    return f"{run.result.engine}, {decoding}" if decoding else run.result.engine


def errors(runs: Sequence[BenchmarkRun]) -> Table:
    """Wrong answers of each run: those that the rule cannot read, and those that choose another option."""
    rows = []
    for run in runs:
        judged = [answers for answers in verdicts(run.known, run.result.headline) if answers]
        right = sum(mean_credit(answers) for answers in judged)
        invalid = sum(sum((1 - v.credit) * (v.choice is None) for v in each) / len(each) for each in judged)
        wrong = sum(sum((1 - v.credit) * (v.choice is not None) for v in each) / len(each) for each in judged)
        failed = len(run.known) - len(judged)
        shares = [percent(value / max(1, len(run.known))) for value in (right, invalid, wrong, failed)]
        rows.append([run.name, run.result.headline, *shares])
    head = ["run", "rule", "right %", "invalid format (IFA) %", "wrong answer (logic) %", "could not be asked %"]
    note = "Shares of all questions. Invalid: the rule cannot read an option; wrong: it reads another one."
    return Table("errors", "Errors: invalid format and wrong answer", head, rows, note)


def scorers(runs: Sequence[BenchmarkRun]) -> Table:
    """The accuracy of the same answers by every scorer."""
    rows = []
    for run in runs:
        cells = []
        for name in SCORERS:
            judged = verdicts(run.known, name)
            right = sum(mean_credit(each) for each in judged) / max(1, len(judged))
            answers = [v for each in judged for v in each]
            unparsable = sum(v.choice is None for v in answers) / max(1, len(answers))
            cells.append(f"{percent(right)} ({percent(unparsable)})")
        rows.append([run.name, *cells])
    return Table(
        "scorers", "The same answers by every scorer", ["run", *SCORERS], rows, "In parentheses: unparsable %."
    )


def groups(runs: Sequence[BenchmarkRun]) -> Table:
    """Accuracy by group."""
    rows = [
        [run.name, field, value, str(record["count"]), with_rule(Estimate.from_record(record), run.result.headline)]
        for run in runs
        for field, parts in run.result.groups.items()
        for value, record in ((value, parts[value]) for value in in_group_order(parts, field))
    ]
    return Table("groups", "By group", ["run", "grouped by", "group", "questions", "accuracy"], rows)


def yes_no(runs: Sequence[BenchmarkRun]) -> Table:
    """Figures of yes/no questions, which expose a student that always says Yes."""
    shares = ("accuracy", "precision", "recall", "f1", "yes")
    rows = []
    for run in runs:
        for task, found in run.result.headline_score.get("yes_no", {}).items():
            cells = [percent(found[name]) for name in shares]
            rows.append([run.name, run.result.headline, task, str(found["answers"]), *cells, str(found["unread"])])
    head = ["run", "rule", "task", "answers", "accuracy %", "precision %", "recall %", "F1 %", "Yes %", "unparsable"]
    note = "Yes is the positive class. An unparsable answer is wrong and does not count as Yes."
    return Table("yes_no", "Yes/no questions", head, rows, note)


def comparisons(runs: Sequence[BenchmarkRun]) -> Table:
    """Each pair of students on the same questions under the same mask, protocol and rule."""
    together: dict[tuple[str, str], list[BenchmarkRun]] = defaultdict(list)
    for run in runs:
        together[run.result.benchmark, run.result.mask].append(run)
    rows, skipped = [], 0
    masks = in_mask_order(mask for _, mask in together)
    for (benchmark, mask), same in sorted(together.items(), key=lambda item: masks.index(item[0][1])):
        for i, first in enumerate(same):
            for second in same[i + 1 :]:
                one, two = first.correct_by_id(), second.correct_by_id()
                if comparison_key(first) != comparison_key(second) or one.keys() != two.keys():
                    skipped += 1
                    continue
                found = compare([one[k] for k in one], [two[k] for k in one])
                rows.append(
                    [f"{first.subject} - {second.subject}", f"{benchmark} / {mask}", first.result.headline,
                     found.difference.percent(signed=True), str(found.only_first), str(found.only_second),
                     f"{found.p_value:.3g}"]
                )  # fmt: skip
    head = ["students", "on", "rule", "difference", "only first right", "only second right", "McNemar p"]
    note = "Differences in percentage points with their 95 % paired bootstrap interval."
    if skipped:
        pairs = "1 pair of runs" if skipped == 1 else f"{skipped} pairs of runs"
        note = f"Not compared: {pairs} of one benchmark and mask that differ in protocol, rule or questions. {note}"
    return Table("comparisons", "Paired comparisons", head, rows, note)


def modality_ablation(runs: Sequence[BenchmarkRun]) -> Table:
    """Which questions need both senses: right with both only, and right from the text alone."""
    together: dict[tuple[str, str, str], dict[str, BenchmarkRun]] = defaultdict(dict)
    for run in runs:
        key = run.subject.partition(" [")[0], run.result.benchmark, ablation_key(run)
        together[key].setdefault(run.result.mask, run)
    rows = []
    for (_, benchmark, _), of_mask in together.items():
        if not {"av", "a", "v"} <= of_mask.keys():
            continue
        right = {mask: run.correct_by_id() for mask, run in of_mask.items()}
        ids = [k for k in right["av"] if all(k in right[m] for m in ABLATION_MASKS if m in right)]
        accuracy = [share([right[m][k] for k in ids]) if m in right else "-" for m in ABLATION_MASKS]
        both = share([right["av"][k] and not right["a"][k] and not right["v"][k] for k in ids])
        text = share([right["text"][k] for k in ids]) if "text" in right else "-"
        lost = share([right["av"][k] and not right["shuffled"][k] for k in ids]) if "shuffled" in right else "-"
        full = of_mask["av"]
        rows.append([f"{full.subject} / {benchmark}", full.result.headline, str(len(ids)), *accuracy, both, text, lost])
    shares = ("right only with both", "right from text alone", "lost with shuffled audio")
    head = ["run", "rule", "questions", *ABLATION_MASKS, *shares]
    note = "Shares of questions in % with their 95 % bootstrap interval."
    return Table("modality_ablation", "Modality ablation", head, rows, note)


def share(values: Sequence[bool]) -> str:
    """A share with its interval, in per cent."""
    return bootstrap([float(v) for v in values]).percent()


def modality_hallucination(runs: Sequence[BenchmarkRun]) -> Table:
    """How often reasoning claims to perceive a masked sense."""
    rows = [
        [run.name, sense, Estimate.from_record(record, "rate").percent(), record["example"] or "-"]
        for run in runs
        for sense, record in run.result.hallucination.items()
    ]
    note = (
        "Share of answers with a sentence that claims to perceive the masked sense, by a rule-based detector; "
        "docs/benchmarks.md states its precision and recall."
    )
    head = ["run", "masked sense", "hallucinated %", "example"]
    return Table("modality_hallucination", "Modality hallucination", head, rows, note)


def protocols(runs: Sequence[BenchmarkRun]) -> Table:
    """Differences between the protocols of runs of one benchmark, apart from mask and student."""
    first: dict[str, BenchmarkRun] = {}
    rows = []
    expected = {*MASK_FIELDS, *STUDENT_FIELDS} - {"student.attention"}
    for run in runs:
        base = first.setdefault(run.result.benchmark, run)
        for key, (old, new) in differences(base.result.protocol, run.result.protocol).items():
            if key not in expected:
                rows.append([run.name, key, str(old), str(new)])
    head = ["run", "field", "first run of the benchmark", "this run"]
    note = "Scores under different protocols are not comparable."
    return Table("protocols", "Protocol differences", head, rows, note)
