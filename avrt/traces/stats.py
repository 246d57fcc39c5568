"""Statistics of a trace folder, as in the paper: lengths, question types, letters, teachers, keep rates."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, case, cast, func, select

from avrt.data.sample import LETTERS
from avrt.data.shards.manifest import MANIFEST
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, NothingUsableError
from avrt.evaluation.result import DIFFICULTIES
from avrt.packaged import find_packaged, packaged
from avrt.response import parse_response
from avrt.traces.database import rows
from avrt.traces.filters import STRATEGIES, TeacherVerdict
from avrt.traces.requests import CUT_OFF
from avrt.traces.schema import calls
from avrt.traces.stats_samples import samples_to_read
from avrt.traces.store_place import StorePlace
from avrt.traces.trace_export import SHARDS, read_traces
from avrt.traces.trace_folder import TraceFolder, run_record

Count = Callable[[str], int]
STATUSES = ("kept", "dropped", "failed")
WRONG = ("same wrong option", "different wrong options")


def collect(
    folder: Path, data: Path | None = None, tokenizer: str | None = None, store: str | None = None
) -> dict[str, Any]:
    """All statistics of the last finished run of a trace folder.

    Args:
        folder: The trace folder.
        data: The shards of the questions, for the wording of dropped ones. Durations and resolutions are read from the
            exported shards, which are part of the folder, and from these only where nothing is exported.
        tokenizer: Folder or id of a tokenizer, to measure lengths in tokens; None counts words.
        store: The folder's store, as for `TraceFolder.find`.

    Returns:
        Nested dictionaries that can be written as JSON.

    Raises:
        NothingUsableError: If the run has no outcomes.
        AvrtError: If there is no finished run, or its traces cannot be read.
    """
    run, home = run_record(folder, store)["run"], TraceFolder.find(folder, store)
    outcomes = home.rows("outcomes", run)
    if not outcomes:
        raise NothingUsableError("the run had no samples", where=folder)
    verdicts = _verdicts(home, run)
    traces = read_traces(folder) or []
    result: dict[str, Any] = {
        "run": run,
        "samples": len(outcomes),
        "outcomes": _ordered(Counter(o["status"] for o in outcomes), STATUSES),
        "reasons": dict(Counter(reason_category(o["reason"]) for o in outcomes if o["reason"]).most_common()),
        "difficulty": _ordered(Counter(o["difficulty"] for o in outcomes if o["difficulty"]), DIFFICULTIES),
        "teachers": _teachers(verdicts),
        "agreement": _agreement(verdicts),
        "keep_rate": {
            name: _percent(sum(strategy(v) is None for v in verdicts.values()), len(verdicts))
            for name, strategy in STRATEGIES.items()
        },
        "calls": _calls(home.store),
        "splits": _splits(traces, *_counter(tokenizer)),
    }
    shards = None if data is None else ShardSet(data)
    exported = _exported_clips(folder, list(result["splits"]))
    if exported:
        result["clips"] = _clips([info for found in exported.values() for info in found])
        for name, split in result["splits"].items():
            split["clips"] = _clips(exported.get(name, []))
    elif shards is not None:
        result["clips"] = _clips([_clip_info(shards, o["position"]) for o in outcomes if o["status"] == "kept"])
    categories = {o["reason"]: reason_category(o["reason"]) for o in outcomes if o["reason"]}
    result["examples"] = samples_to_read(home, outcomes, traces, shards, categories)
    return result


def describe(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation and range."""
    if not values:
        return {"n": 0}
    return {
        "n": len(values),
        "mean": round(statistics.fmean(values), 2),
        "std": round(statistics.pstdev(values), 2),
        "min": min(values),
        "max": max(values),
    }


def _verdicts(folder: TraceFolder, run: str) -> dict[str, list[TeacherVerdict]]:
    """The verdicts of a run by sample."""
    found: dict[str, list[TeacherVerdict]] = defaultdict(list)
    for row in folder.rows("verdicts", run):
        votes = tuple(json.loads(row["votes"]))
        found[row["sample"]].append(TeacherVerdict(row["teacher"], votes, row["answer"]))
    return dict(found)


def _teachers(verdicts: dict[str, list[TeacherVerdict]]) -> dict[str, dict[str, float]]:
    """Each teacher's number of questions and percentages of right and undecided ones."""
    by_name: dict[str, list[TeacherVerdict]] = defaultdict(list)
    for verdict in itertools.chain.from_iterable(verdicts.values()):
        by_name[verdict.teacher].append(verdict)
    return {
        name: {
            "questions": len(group),
            "accuracy": _percent(sum(v.correct for v in group), len(group)),
            "undecided": _percent(sum(v.letter is None for v in group), len(group)),
        }
        for name, group in sorted(by_name.items())
    }


def _agreement(verdicts: dict[str, list[TeacherVerdict]]) -> dict[str, dict[str, int]]:
    """For each pair of teachers how often both are right, one is, or both are wrong, by the same option or not."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for group in verdicts.values():
        for one, other in itertools.combinations(group, 2):
            table[f"{one.teacher} / {other.teacher}"][_compare(one, other)] += 1
    order = ("both right", *sorted(k for counts in table.values() for k in counts if k.startswith("only")), *WRONG)
    return {pair: _ordered(counts, order) for pair, counts in table.items()}


def _compare(one: TeacherVerdict, other: TeacherVerdict) -> str:
    if one.correct and other.correct:
        return "both right"
    if one.correct or other.correct:
        return f"only {one.teacher if one.correct else other.teacher} right"
    return WRONG[0] if one.letter == other.letter and one.letter else WRONG[1]


def _calls(store: StorePlace) -> dict[str, dict[str, Any]]:
    """Counts, mean seconds and tokens of the calls of each role and model."""
    of = calls.c
    done, failed = (func.sum(case((of.status == status, 1), else_=0)) for status in ("done", "failed"))
    cut = case((func.lower(of.finish_reason).in_(CUT_OFF), 1), (of.finish_reason.is_not(None), 0))
    query = select(
        of.role,
        of.model,
        func.count().label("n"),
        done.label("done"),
        failed.label("failed"),
        (func.sum(of.attempts) - done).label("retries"),
        func.avg(of.seconds).label("seconds"),
        cast(func.sum(of.prompt_tokens), BigInteger).label("prompt_tokens"),
        cast(func.sum(of.completion_tokens), BigInteger).label("completion_tokens"),
        func.sum(cut).label("cut_off"),
    )
    found = rows(store, query.group_by(of.role, of.model).order_by(of.role, of.model))
    told = [{str(name): value for name, value in row.items()} for row in found]
    return {f"{row.pop('role')}: {row.pop('model')}": row for row in told}


def _splits(traces: list[dict[str, Any]], unit: str, count: Count) -> dict[str, Any]:
    """The statistics of AVRT Tables 2 and 9 for each split of the exported traces."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in traces:
        groups[record["split"]].append(record)
    return {name: _split(group, unit, count) for name, group in sorted(groups.items())}


def _split(records: list[dict[str, Any]], unit: str, count: Count) -> dict[str, Any]:
    """The statistics of one split."""
    read = [parse_response(r["trace"], LETTERS[: len(r["choices"])], several=r.get("several", False)) for r in records]
    lengths = [count(response.think or "") for response in read]
    return {
        "traces": len(records),
        "format_compliance": _percent(sum(r.well_formed for r in read), len(read)),
        "unit": unit,
        "think_length": describe(lengths),
        "answer_length": describe([count(response.letter or "") for response in read]),
        "histogram": lengths,
        "question_types": _shares(r["question_type"] or "other" for r in records),
        "answers": _shares(r["answer"] for r in records),
        "relations": _shares(r["relation"] or "unknown" for r in records),
        "difficulty": _shares(r["difficulty"] for r in records),
    }


def _exported_clips(folder: Path, splits: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What is known of the source clip of each exported trace, by split; nothing where no shards are exported."""
    found = {}
    for name in splits:
        if (folder / SHARDS / name / MANIFEST).is_file():
            shards = ShardSet(folder / SHARDS / name)
            found[name] = [_clip_info(shards, position) for position in range(len(shards))]
    return found


def _clip_info(shards: ShardSet, position: int) -> dict[str, Any]:
    """What a shard says about the source of one clip."""
    info: dict[str, Any] = json.loads(shards.read(position, ("clip.json",))["clip.json"])
    return info


def _clips(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Durations in seconds and resolutions of source clips."""
    durations = [float(info["duration"]) for info in infos if info.get("duration") is not None]
    return {
        "duration": describe(durations),
        "resolutions": _shares(f"{info['width']}x{info['height']}" for info in infos if "width" in info),
    }


def _counter(tokenizer: str | None) -> tuple[str, Count]:
    """(unit, function) to measure lengths with: words, or tokens of a tokenizer."""
    if tokenizer is None:
        return "words", lambda text: len(text.split())
    from transformers import AutoTokenizer

    folder = find_packaged(tokenizer, packaged("avrt.configs"), Path.is_dir)
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer if folder is None else str(folder))
    except Exception as error:  # transformers raises many kinds of errors for a folder without a tokenizer
        why = (str(error) or type(error).__name__).split("\n")[0]
        remedy = "give a folder with a tokenizer, or a model id"
        raise AvrtError(f"has no tokenizer that can be loaded: {why}", where=tokenizer, remedy=remedy) from None
    return "tokens", lambda text: len(loaded.encode(text, add_special_tokens=False))


def _shares(values: Iterable[str]) -> dict[str, float]:
    """The percentage of each value, the most frequent first."""
    counts = Counter(values)
    return {value: _percent(n, counts.total()) for value, n in counts.most_common()}


def _ordered(counts: Mapping[str, int], order: Sequence[str]) -> dict[str, int]:
    """Counts in a given order; keys that it lacks follow."""
    return {name: counts[name] for name in (*order, *(name for name in counts if name not in order)) if name in counts}


def _percent(part: int, whole: int) -> float:
    """Percent with one decimal, as in the paper."""
    return round(100 * part / whole, 1) if whole else 0.0


def reason_category(reason: str) -> str:
    """A reason without the details that differ from sample to sample."""
    return reason if reason.startswith(("filter:", "check:")) else reason.partition(", last:")[0]
