"""Modality hallucination as a language model judges it, beside the rules of `avrt.evaluation.hallucination`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from avrt.data.sample import Sense
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.comparison_tables import share
from avrt.evaluation.hallucination import MASKED_SENSES, perception_claims
from avrt.evaluation.statistics import percent
from avrt.evaluation.tables import Table
from avrt.traces.backend import Backend
from avrt.traces.requests import CallFailedError, Request, Sampling

SYSTEM = "You check what a text claims. Answer with one word: yes or no."
QUESTION = {
    "audio": "does the writer claim to have heard something of a clip, rather than deny it or suppose it?",
    "vision": "does the writer claim to have seen something of a clip, rather than deny it or suppose it?",
}
HEAD = ["run", "masked sense", "judge: hallucinated %", "rules: hallucinated %", "agree %", "not judged"]


def judge_hallucination(runs: Sequence[BenchmarkRun], backend: Backend) -> Table:
    """Ask about every answer of every run that masks a sense.

    Args:
        runs: The runs.
        backend: The judge. An answer whose call fails, or whose reply starts with neither yes nor no, is not judged.

    Raises:
        AvrtError: If the judge cannot be reached.
    """
    rows = asyncio.run(_rows(runs, backend))
    return Table("judge", "Modality hallucination by a judge", HEAD, rows, f"Judge: {backend.model}.")


async def _rows(runs: Sequence[BenchmarkRun], backend: Backend) -> list[list[str]]:
    """A row for each run and masked sense."""
    await backend.open()
    places = asyncio.Semaphore(backend.max_concurrency)
    rows = []
    try:
        for run in runs:
            for sense in MASKED_SENSES.get(run.result.mask, ()):
                texts = [(p.id, r) for p in run.predictions for r in p.responses]
                asked = [_ask(backend, places, name, text, sense) for name, text in texts]
                opinions = await asyncio.gather(*asked)
                pairs = [
                    (opinion, bool(perception_claims(text, sense)))
                    for opinion, (_, text) in zip(opinions, texts, strict=True)
                    if opinion is not None
                ]
                agree = sum(a == b for a, b in pairs) / max(1, len(pairs))
                shares = [share([a for a, _ in pairs]), share([b for _, b in pairs]), percent(agree)]
                rows.append([run.name, sense, *shares, str(len(texts) - len(pairs))])
    finally:
        await backend.close()
    return rows


async def _ask(backend: Backend, places: asyncio.Semaphore, name: str, text: str, sense: Sense) -> bool | None:
    """The judge's reply about one answer; None if it cannot be used."""
    prompt = f"Text:\n{text.partition('<answer>')[0]}\n\nQuestion: {QUESTION[sense]}"
    async with places:
        try:
            reply = await backend.complete(Request("judge", name, SYSTEM, prompt, Sampling(max_tokens=8)))
        except CallFailedError:
            return None
    word = reply.text.strip().lower()
    return True if word.startswith("yes") else False if word.startswith("no") else None
