"""The teachers of a trace folder as benchmark runs: the accuracy of each teacher alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import select

from avrt.data.shards.reader import ShardSet
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.paper import sizes
from avrt.evaluation.protocol import NANO_WORLD, fingerprint, flatten
from avrt.evaluation.result import Result
from avrt.evaluation.statistics import bootstrap
from avrt.traces.database import rows
from avrt.traces.filters import AUDIO, VISUAL
from avrt.traces.schema import calls, verdicts
from avrt.traces.trace_folder import TraceFolder, run_record

RULE = "teachers'"
ASKED_BY = "traces"
MASKS = {VISUAL: "v", AUDIO: "a"}
# Parts of the names of the paper's teachers; `audio-flamingo-3-hf`, without the think adapter, is not one of them.
PAPER_MODELS = {VISUAL: "kimi-vl", AUDIO: "audio-flamingo-3-think"}
_NANO = re.compile(rf"(?:{VISUAL}|{AUDIO}|nano\S*)@")


def teacher_runs(folder: Path) -> list[BenchmarkRun]:
    """A run for each teacher, by its verdicts on the questions that have an answer.

    A question without a verdict of a teacher counts as wrong.

    Args:
        folder: The trace folder.

    Raises:
        AvrtError: If it holds no finished run, or the shards of the questions are missing.
    """
    record, home = run_record(folder), TraceFolder.find(folder)
    shards = ShardSet(record["data"])
    benchmark = str(shards.manifest.recipe.get("name", "custom"))
    questions = [sample.id for sample in shards.samples() if sample.answer is not None]
    query = select(verdicts.c.sample, verdicts.c.teacher, verdicts.c.correct, calls.c.model)
    of_run = (verdicts.c.folder == home.name, verdicts.c.run == record["run"])
    joined = query.join_from(verdicts, calls, calls.c.key == verdicts.c.call, isouter=True).where(*of_run)
    found = list(rows(home.store, joined.order_by(verdicts.c.teacher.desc(), verdicts.c.sample)))
    runs = []
    for teacher in dict.fromkeys(row["teacher"] for row in found):
        right = {row["sample"]: bool(row["correct"]) for row in found if row["teacher"] == teacher}
        estimate = bootstrap([float(right.get(name, False)) for name in questions])
        score = {**estimate.to_record(), "right": sum(right.get(name, False) for name in questions)}
        protocol = flatten({"clips": shards.manifest.spec, "data": {"manifest": shards.digest[:16]}})
        result = Result(
            student=f"{teacher}_teacher",
            benchmark=benchmark,
            mask=MASKS.get(teacher, "av"),
            protocol=protocol,
            fingerprint=fingerprint(protocol),
            official=None,
            counts={
                "questions": len(questions), "expected": sizes().get(benchmark),
                "failed": sum(name not in right for name in questions), "cut_off": 0,
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
    """A teacher's label, unless it is the paper's model, and its source, if it is a nano model."""
    known = sorted(model for model in models if model)
    identity = {}
    if not known or not all(PAPER_MODELS.get(teacher, "-") in model.lower() for model in known):
        identity["label"] = f"{' and '.join(known) or 'an unknown model'} ({teacher} teacher)"
    if benchmark == NANO_WORLD or any(_NANO.match(model) for model in known):
        identity["source"] = "nano"
    return identity
