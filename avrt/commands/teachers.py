"""The teachers of a trace folder as runs of a benchmark: how many of its questions each answered right alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from avrt.data.shards.reader import ShardSet
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.paper import sizes
from avrt.evaluation.protocol import NANO_WORLD, fingerprint, flatten
from avrt.evaluation.result import Result
from avrt.evaluation.statistics import bootstrap
from avrt.traces.filters import AUDIO, VISUAL
from avrt.traces.folders import TraceFolder, run_record
from avrt.traces.store import rows

RULE = "teachers'"
ASKED_BY = "traces"
MASK = {VISUAL: "v", AUDIO: "a"}
# Audio Flamingo 3 without its think adapter, `audio-flamingo-3-hf`, is not the paper's teacher.
PAPERS = {VISUAL: "kimi-vl", AUDIO: "audio-flamingo-3-think"}
_NANO = re.compile(rf"(?:{VISUAL}|{AUDIO}|nano\S*)@")


def teacher_runs(folder: Path) -> list[BenchmarkRun]:
    """A run for each teacher, by its verdicts on the questions of the shards that its traces were made from.

    A question that a teacher has no verdict on counts as wrong, as one does that could not be asked.

    Args:
        folder: What `avrt traces run` was given as `--out`.

    Raises:
        AvrtError: If no run has been finished there, or its shards are gone.
    """
    record, kept_in = run_record(folder), TraceFolder.find(folder)
    shards = ShardSet(Path(record["data"]))
    benchmark = str(shards.manifest.recipe.get("name", "custom"))
    known = [sample.id for sample in shards.samples() if sample.answer is not None]
    query = (
        "SELECT verdicts.sample, teacher, correct, model FROM verdicts LEFT JOIN calls ON calls.key = verdicts.call "
        "WHERE folder = ? AND run = ? ORDER BY teacher DESC"
    )
    found = list(rows(kept_in.store, query, (kept_in.name, record["run"])))
    runs = []
    for teacher in dict.fromkeys(row["teacher"] for row in found):
        right = {row["sample"]: bool(row["correct"]) for row in found if row["teacher"] == teacher}
        estimate = bootstrap([float(right.get(name, False)) for name in known])
        score = {**estimate.to_record(), "right": sum(right.get(name, False) for name in known)}
        protocol = flatten({"clips": shards.manifest.spec, "data": {"manifest": shards.digest[:16]}})
        result = Result(
            student=f"{teacher}_teacher",
            benchmark=benchmark,
            mask=MASK.get(teacher, "av"),
            protocol=protocol,
            fingerprint=fingerprint(protocol),
            official=None,
            counts={
                "questions": len(known), "expected": sizes().get(benchmark),
                "failed": sum(name not in right for name in known), "cut_off": 0,
            },
            scores={RULE: score},
            groups={},
            headline=RULE,
            asked_by=ASKED_BY,
            environment=_identity(teacher, {row["model"] for row in found if row["teacher"] == teacher}, benchmark),
        )  # fmt: skip
        runs.append(BenchmarkRun(folder, result, []))
    return runs


def _identity(teacher: str, models: set[str | None], benchmark: str) -> dict[str, Any]:
    """What the teacher is: its own name, unless it is the paper's model, and whether it is a miniature."""
    known = sorted(model for model in models if model)
    named = {}
    if not known or not all(PAPERS.get(teacher, "-") in model.lower() for model in known):
        named["label"] = f"{' and '.join(known) or 'an unknown model'} ({teacher} teacher)"
    if benchmark == NANO_WORLD or any(_NANO.match(model) for model in known):
        named["source"] = "nano"
    return named
