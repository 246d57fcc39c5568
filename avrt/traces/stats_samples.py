"""Samples of a trace run to read: what each teacher said, what the merger made of it, or why the sample was dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import select

from avrt.data.sample import LETTERS
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.traces.database import rows
from avrt.traces.schema import calls as made
from avrt.traces.schema import verdicts
from avrt.traces.trace_folder import TraceFolder

KEPT, OTHERS, PER_REASON = 6, 8, 2
"""How many kept samples are shown, how many others, and how many of these for the same reason."""
_ORDER = {"visual": 0, "audio": 1}


def samples_to_read(
    folder: TraceFolder,
    outcomes: Sequence[Mapping[str, Any]],
    traces: Sequence[Mapping[str, Any]],
    shards: ShardSet | None,
    category: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Some kept samples, drawn at random, and some of each reason for which others were not kept.

    Args:
        folder: The trace folder.
        outcomes: The outcomes of the run.
        traces: The exported traces.
        shards: The questions, where they are still there; otherwise the question is read from a teacher's prompt.
        category: Reason of an outcome -> the reason without the details that differ from sample to sample.

    Returns:
        For each sample `id`, `status`, `reason`, `category`, `difficulty`, `question`, `choices`, `answer`, `trace`,
        and `replies`: each with `role`, `model`, `text`, `reasoning`, `letter`, `right`.
    """
    written = {record["id"]: record for record in traces}
    found = []
    for outcome in [*_kept(outcomes), *_others(outcomes, category)]:
        calls = _calls(folder, outcome)
        asked = written.get(outcome["sample"]) or _question(shards, outcome) or _from_prompt(calls)
        found.append(
            {
                "id": outcome["sample"],
                "status": outcome["status"],
                "reason": outcome["reason"],
                "category": category.get(outcome["reason"] or "", ""),
                "difficulty": outcome["difficulty"],
                **{name: asked.get(name) for name in ("question", "choices", "answer")},
                "trace": outcome["trace"],
                "replies": [{key: value for key, value in call.items() if key != "prompt"} for call in calls],
            }
        )
    return found


def _kept(outcomes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return _drawn([o for o in outcomes if o["status"] == "kept"], KEPT)


def _others(outcomes: Sequence[Mapping[str, Any]], category: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Samples that were not kept, a few of each reason, the most frequent reasons first."""
    by_reason: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for outcome in outcomes:
        if outcome["status"] != "kept":
            by_reason[category.get(outcome["reason"] or "", "")].append(outcome)
    groups = sorted(by_reason.values(), key=len, reverse=True)
    return [outcome for group in groups for outcome in _drawn(group, PER_REASON)][:OTHERS]


def _drawn(listed: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    chosen = np.random.default_rng(0).choice(len(listed), min(most, len(listed)), replace=False)
    return [listed[i] for i in sorted(chosen.tolist())]


def _calls(folder: TraceFolder, outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The call behind each teacher's verdict, a merger's reply that a check refused, or the calls that failed."""
    here = (verdicts.c.folder == folder.name, verdicts.c.sample == outcome["sample"])
    judged = {r["call"]: r for r in rows(folder.store, select(verdicts).where(*here))}
    of_sample = select(made).where(made.c.sample == outcome["sample"])
    calls = list(rows(folder.store, of_sample.order_by(made.c.number, made.c.key)))
    failed = outcome["status"] == "failed"
    wanted = [c for c in calls if c["key"] in judged or (failed and c["status"] == "failed")]
    refused = []
    if (outcome["reason"] or "").startswith("check:"):  # no trace came of the merger's replies; the last one is shown
        refused = [c for c in calls if c["role"] == "merger"][-1:]
    found = []
    for call in [*sorted(wanted, key=lambda c: (_ORDER.get(c["role"], 2), c["role"])), *refused]:
        verdict = judged.get(call["key"])
        found.append(
            {
                "role": call["role"],
                "model": call["model"],
                "text": call["text"] or call["error"] or "",
                "reasoning": call["reasoning"],
                "letter": None if verdict is None else verdict["letter"],
                "right": None if verdict is None else bool(verdict["correct"]),
                "prompt": call["prompt"],
            }
        )
    return found


def _question(shards: ShardSet | None, outcome: Mapping[str, Any]) -> dict[str, Any] | None:
    """The question from the shards that the run was made of."""
    if shards is None:
        return None
    try:
        sample = shards.sample(outcome["position"])
    except (AvrtError, IndexError, OSError):
        return None
    if sample.id != outcome["sample"]:  # other shards are in their place now
        return None
    return {"question": sample.question, "choices": list(sample.choices), "answer": sample.answer_letter}


def _from_prompt(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The question with its choices as a teacher was asked it."""
    prompts = [call["prompt"] for call in calls if call["role"] != "merger"]
    text = prompts[0].rpartition("Question:")[2].strip() if prompts else "(no call was made)"
    return {"question": text, "choices": [], "answer": None}


def listed_choices(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Letter and text of each choice of a sample."""
    return list(zip(LETTERS, sample["choices"] or (), strict=False))
