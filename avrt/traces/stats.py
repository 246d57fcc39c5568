"""Statistics of a trace folder, as the paper gives them: lengths, types, letters, teachers, keep rates."""

from __future__ import annotations

import importlib.resources
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, NothingUsableError
from avrt.response import parse_response
from avrt.traces.filters import STRATEGIES, Verdict
from avrt.traces.folders import TraceFolder, run_record
from avrt.traces.requests import CUT_OFF
from avrt.traces.store import rows
from avrt.traces.to_shards import read_traces

Count = Callable[[str], int]
EXAMPLES = 5
SHOWN = ("id", "question", "choices", "answer", "difficulty", "trace")


def collect(folder: Path, data: Path | None = None, tokenizer: str | None = None) -> dict[str, Any]:
    """All statistics of the newest run in a trace folder.

    Args:
        folder: The trace folder.
        data: The shards that the questions come from, for durations and resolutions; None leaves these out.
        tokenizer: Folder or id of a tokenizer to measure lengths in tokens with; None counts words.

    Returns:
        Nested dictionaries that can be written as JSON.

    Raises:
        NothingUsableError: If the folder holds no outcomes.
        AvrtError: If it holds no run, or its traces cannot be read.
    """
    run, kept_in = run_record(folder)["run"], TraceFolder.find(folder)
    query = "SELECT * FROM outcomes WHERE folder = ? AND run = ? ORDER BY position"
    outcomes = [dict(row) for row in rows(kept_in.store, query, (kept_in.name, run))]
    if not outcomes:
        raise NothingUsableError("the run had no samples", where=folder)
    verdicts = _verdicts(kept_in, run)
    traces = read_traces(folder) or []
    result: dict[str, Any] = {
        "run": run,
        "samples": len(outcomes),
        "outcomes": dict(Counter(o["status"] for o in outcomes)),
        "reasons": dict(Counter(plain_reason(o["reason"]) for o in outcomes if o["reason"]).most_common()),
        "difficulty": dict(Counter(o["difficulty"] for o in outcomes if o["difficulty"])),
        "teachers": _teachers(verdicts),
        "agreement": _agreement(verdicts),
        "keep_rate": {
            name: _share(sum(strategy(v) is None for v in verdicts.values()), len(verdicts))
            for name, strategy in STRATEGIES.items()
        },
        "calls": _calls(kept_in.store),
        "splits": _splits(traces, *_counter(tokenizer)),
        "examples": [{name: record[name] for name in SHOWN} for record in traces[:EXAMPLES]],
    }
    if data is not None:
        shards = ShardSet(data)
        result["clips"] = _clips(shards, [o["position"] for o in outcomes if o["status"] == "kept"])
        places = {o["sample"]: o["position"] for o in outcomes}
        for name, split in result["splits"].items():
            ids = [record["id"] for record in traces if record["split"] == name]
            split["clips"] = _clips(shards, [places[i] for i in ids if i in places])
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
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


def _verdicts(folder: TraceFolder, run: str) -> dict[str, list[Verdict]]:
    """Verdicts by sample; the right letter only matters as being equal to a teacher's or not."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    query = "SELECT * FROM verdicts WHERE folder = ? AND run = ? ORDER BY sample, teacher"
    for row in rows(folder.store, query, (folder.name, run)):
        votes = tuple(json.loads(row["votes"]))
        found[row["sample"]].append(Verdict(row["teacher"], votes, row["answer"]))
    return dict(found)


def _teachers(verdicts: dict[str, list[Verdict]]) -> dict[str, dict[str, float]]:
    by_name: dict[str, list[Verdict]] = defaultdict(list)
    for group in verdicts.values():
        for verdict in group:
            by_name[verdict.teacher].append(verdict)
    return {
        name: {
            "questions": len(group),
            "accuracy": _share(sum(v.correct for v in group), len(group)),
            "undecided": _share(sum(v.letter is None for v in group), len(group)),
        }
        for name, group in sorted(by_name.items())
    }


def _agreement(verdicts: dict[str, list[Verdict]]) -> dict[str, dict[str, int]]:
    """For each pair of teachers: both right, only the one, only the other, the same wrong letter, other wrong ones."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for group in verdicts.values():
        for i, one in enumerate(group):
            for other in group[i + 1 :]:
                table[f"{one.teacher} / {other.teacher}"][_compare(one, other)] += 1
    return {pair: dict(counts) for pair, counts in table.items()}


def _compare(one: Verdict, other: Verdict) -> str:
    if one.correct and other.correct:
        return "both right"
    if one.correct or other.correct:
        return f"only {one.teacher if one.correct else other.teacher} right"
    return "same wrong option" if one.letter == other.letter and one.letter else "both wrong, apart"


def _calls(folder: Path) -> dict[str, dict[str, Any]]:
    marks = ", ".join(f"'{name}'" for name in CUT_OFF)
    query = (
        "SELECT role, model, count(*) n, sum(status = 'done') done, sum(status = 'failed') failed, "
        "sum(attempts) - sum(status = 'done') retries, avg(seconds) seconds, sum(prompt_tokens) prompt_tokens, "
        "sum(completion_tokens) completion_tokens, "
        f"sum(lower(finish_reason) IN ({marks})) cut_off "
        "FROM calls GROUP BY role, model ORDER BY role, model"
    )
    return {f"{row['role']}: {row['model']}": {key: row[key] for key in row.keys()[2:]} for row in rows(folder, query)}


def _splits(traces: list[dict[str, Any]], unit: str, count: Count) -> dict[str, Any]:
    """AVRT Tables 2 and 9: what is in each split of the exported traces."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in traces:
        groups[record["split"]].append(record)
    return {name: _split(group, unit, count) for name, group in sorted(groups.items())}


def _split(records: list[dict[str, Any]], unit: str, count: Count) -> dict[str, Any]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    read = [parse_response(r["trace"], letters[: len(r["choices"])], several=r.get("several", False)) for r in records]
    lengths = [count(response.think or "") for response in read]
    return {
        "traces": len(records),
        "format_compliance": _share(sum(r.well_formed for r in read), len(read)),
        "unit": unit,
        "think_length": spread(lengths),
        "answer_length": spread([count(response.letter or "") for response in read]),
        "histogram": lengths,
        "question_types": _shares(r["question_type"] or "other" for r in records),
        "answers": _shares(r["answer"] for r in records),
        "relations": _shares(r["relation"] or "unknown" for r in records),
        "difficulty": _shares(r["difficulty"] for r in records),
    }


def _clips(shards: ShardSet, positions: list[int]) -> dict[str, Any]:
    """Durations in seconds and source resolutions of samples' clips."""
    durations: list[float] = []
    sizes: Counter[str] = Counter()
    for position in positions:
        info = json.loads(shards.read(position, ("clip.json",))["clip.json"])
        if (duration := info.get("duration")) is not None:
            durations.append(float(duration))
        if "width" in info:
            sizes[f"{info['width']}x{info['height']}"] += 1
    return {"duration": spread(durations), "resolutions": _normalized(sizes)}


def _counter(tokenizer: str | None) -> tuple[str, Count]:
    if tokenizer is None:
        return "words", lambda text: len(text.split())
    from transformers import AutoTokenizer

    packaged = Path(str(importlib.resources.files("avrt_configs").joinpath(tokenizer)))
    try:
        loaded = AutoTokenizer.from_pretrained(str(packaged) if packaged.is_dir() else tokenizer)
    except Exception as error:  # transformers raises anything for a folder that holds something else
        why = (str(error) or type(error).__name__).split("\n")[0]
        raise AvrtError(f"has no tokenizer that can be loaded: {why}", where=tokenizer) from None
    return "tokens", lambda text: len(loaded.encode(text, add_special_tokens=False))


def _shares(values: Iterable[str]) -> dict[str, float]:
    return _normalized(Counter(values))


def _normalized(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {key: _share(n, total) for key, n in counts.most_common()}


def _share(part: int, whole: int) -> float:
    """Percent, with one decimal as the paper gives it."""
    return round(100 * part / whole, 1) if whole else 0.0


def plain_reason(reason: str) -> str:
    """A reason without what differs from sample to sample."""
    return reason if reason.startswith(("filter:", "check:")) else reason.partition(", last:")[0]
