"""The exports of a trace run: shards for fine-tuning, JSON lines, Parquet, and difficulty labels."""

from __future__ import annotations

import fcntl
import hashlib
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from avrt.data.sample import Sample
from avrt.data.shards.manifest import MANIFEST
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from avrt.errors import AvrtError, NothingUsableError
from avrt.files import open_whole
from avrt.text import clean_all, read_json_lines, to_json
from avrt.traces.trace_folder import TraceFolder
from avrt.traces.trace_options import TraceOptions

SHARDS, LABELLED = "shards", "labelled"
TRACES, PARQUET, DIFFICULTY = "traces.jsonl", "traces.parquet", "difficulty.jsonl"
SPLITS = ("train", "val")
_FIELDS = (
    "id", "question", "choices", "answer", "trace", "media", "relation", "question_type", "difficulty", "metadata"
)  # fmt: skip


def export_run(options: TraceOptions, run: str, shards: ShardSet) -> dict[str, int]:
    """Write the shards, traces and labels of a run, in the order of the questions.

    Args:
        options: The run's settings.
        run: The run's name.
        shards: The questions.

    Returns:
        Number of traces in each split.
    """
    folder = options.folder.of_questions(shards.digest)
    with (folder.path / "export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that share a run both export at its end
        return _export(options, run, shards, folder)


def _export(options: TraceOptions, run: str, shards: ShardSet, folder: TraceFolder) -> dict[str, int]:
    """Write the exports of a run whose folder is locked; returns the number of traces in each split."""
    out, outcomes = folder.path, {row["position"]: row for row in folder.rows("outcomes", run)}
    kept = {p: r for p, r in outcomes.items() if r["status"] == "kept"}
    with_difficulty = {p: r for p, r in outcomes.items() if r["difficulty"]}
    split = {p: split_of(r["clip"], options.val_share) for p, r in kept.items()}
    if options.shuffle_seed is not None:
        kept = _exchanged(kept, options.shuffle_seed)

    def labelled(sample: Sample, position: int) -> Sample:
        return replace(sample, metadata={**sample.metadata, "difficulty": outcomes[position]["difficulty"]})

    def with_trace(sample: Sample, position: int) -> Sample:
        return replace(labelled(sample, position), trace=kept[position]["trace"])

    counts = {}
    for name in SPLITS:
        members = [p for p in kept if split[p] == name]
        counts[name] = len(members)
        _write_shards(shards, members, out / SHARDS / name, with_trace, {"traces": run, "split": name})
    if options.label_all:
        _write_shards(shards, list(with_difficulty), out / LABELLED, labelled, {"difficulty": run})
    _write_lines(out / TRACES, _records(shards, kept, split))
    labels = ({"id": r["sample"], "difficulty": r["difficulty"]} for r in with_difficulty.values())
    _write_lines(out / DIFFICULTY, labels)
    return counts


def _exchanged(kept: dict[int, dict[str, Any]], seed: int) -> dict[int, dict[str, Any]]:
    """The outcomes, each with the trace, and so the answer, of a sample about another clip.

    Raises:
        AvrtError: If more than half of the traces are about one clip.
    """
    by_clip: dict[str, list[int]] = defaultdict(list)
    for position, row in kept.items():
        by_clip[row["clip"]].append(position)
    clips = sorted(by_clip)
    random.Random(seed).shuffle(clips)
    members = [position for clip in clips for position in by_clip[clip]]
    # Clip by clip in a circle, so many places on that nobody meets a trace of its own clip.
    most = max(map(len, by_clip.values()), default=0)
    if 2 * most > len(members):
        what = f"{most} of {len(members)} traces are about one clip, and so have none to be exchanged for"
        raise AvrtError(what, where="shuffle_seed", remedy="trace questions about more clips")
    others = [*members[most:], *members[:most]]
    return {p: {**kept[p], "trace": kept[o]["trace"]} for p, o in sorted(zip(members, others, strict=True))}


def write_parquet(folder: Path) -> Path:
    """Write the exported traces as Parquet, one row each.

    Raises:
        NothingUsableError: If no trace was kept.
        AvrtError: If nothing is exported yet, the traces cannot be read, or pyarrow is not installed.
    """
    records = read_traces(folder)
    if records is None:
        raise AvrtError("holds no exported traces", where=folder, remedy="run avrt traces run with the stage export")
    if not records:
        raise NothingUsableError("no trace was kept", where=folder, remedy="avrt traces stats lists the reasons")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise AvrtError("Parquet needs the package pyarrow", remedy="pip install 'avrt[traces]'") from None
    for record in records:
        record["metadata"] = to_json(record["metadata"], sort_keys=True)
    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    columns = {"choices": texts, "media": texts, "several": pyarrow.bool_()}
    names = [*_FIELDS, "several", "split"]
    schema = pyarrow.schema([(name, columns.get(name, text)) for name in names])
    # traces of earlier versions have no such field, as each of their questions has one right choice
    written = [{"several": False, **{name: record[name] for name in names if name in record}} for record in records]
    table = pyarrow.Table.from_pylist(written, schema=schema)
    with open_whole(folder / PARQUET) as stream:
        pyarrow.parquet.write_table(table, stream)
    return folder / PARQUET


def read_traces(folder: Path) -> list[dict[str, Any]] | None:
    """The exported traces as records; None where nothing is exported.

    Raises:
        AvrtError: If the file is damaged.
    """
    path, remedy = folder / TRACES, "write it again by avrt traces run with the stage export"
    if not path.is_file():
        return None
    try:
        records = [clean_all(record) for record in read_json_lines(path)]
    except ValueError as error:
        raise AvrtError(str(error), where=path, remedy=remedy) from None
    for number, record in enumerate(records, 1):
        missing = [name for name in (*_FIELDS, "split") if not isinstance(record, dict) or name not in record]
        if missing:
            raise AvrtError(f"trace {number} has no field {missing[0]}", where=path, remedy=remedy)
    return records


def _records(shards: ShardSet, kept: dict[int, dict[str, Any]], split: dict[int, str]) -> Iterator[dict[str, Any]]:
    """The kept traces with their questions, in order, as records of `traces.jsonl`."""
    for position, outcome in kept.items():
        sample = shards.sample(position)
        yield {
            "id": sample.id,
            "question": sample.question,
            "choices": list(sample.choices),
            "answer": sample.answer_letter,
            "several": sample.several,
            "trace": outcome["trace"],
            "media": [str(m) for m in sample.media],
            "relation": None if sample.relation is None else str(sample.relation),
            "question_type": sample.question_type,
            "difficulty": outcome["difficulty"],
            "metadata": dict(sample.metadata),
            "split": split[position],
        }


def _write_shards(
    shards: ShardSet,
    positions: list[int],
    folder: Path,
    change: Callable[[Sample, int], Sample],
    origin: dict[str, str],
) -> None:
    """Write changed samples with the same media bytes, in place of the shards of an earlier run."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise AvrtError("holds other files than shards", where=folder, remedy="move it away")
        shutil.rmtree(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    spec = {**shards.manifest.spec, "teacher_budget": None}  # members for teachers are not copied
    with ShardWriter(partial, spec, {**shards.manifest.recipe, **origin}) as writer:
        for position in positions:
            raw = shards.read(position)
            members = {name: data for name, data in raw.items() if not name.startswith("__") and name != "json"}
            writer.write(change(Sample.from_json(raw["json"]), position), members)
    partial.rename(folder)


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with open_whole(path) as stream:
        stream.writelines((to_json(record) + "\n").encode() for record in records)


def split_of(clip: str, val_share: float) -> str:
    """The split of a clip's traces, by the clip's hash, so that all questions about one clip are in the same split."""
    number = int(hashlib.blake2b(clip.encode(), digest_size=6).hexdigest(), 16) / 2**48
    return "val" if number < val_share else "train"
