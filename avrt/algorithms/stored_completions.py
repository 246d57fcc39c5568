"""Completions that a checkpoint keeps for a batch that was on its way (`avrt.algorithms.rollout_ahead`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_min
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions


@dataclass(frozen=True)
class Asked:
    """What an engine is asked for.

    Attributes:
        batch: B questions.
        sampling: How completions are drawn.
        seeds: B * G seeds, a group's one behind the other.
        group_size: Completions of each question, G.
    """

    batch: OmniBatch
    sampling: SamplingOptions
    seeds: list[int]
    group_size: int

    def hashes(self) -> list[str]:
        """For each question a hash of all that its completions follow from beside weights and clip."""
        drawn, size = self.sampling, self.group_size
        how = [drawn.max_new_tokens, drawn.temperature, drawn.top_k, drawn.top_p]
        asked = [
            [sample.id, ids.tolist(), self.seeds[i * size : (i + 1) * size], how]
            for i, (sample, ids) in enumerate(zip(self.batch.samples, self.batch.prompt_ids, strict=True))
        ]
        return [hashlib.sha256(json.dumps(question).encode()).hexdigest() for question in asked]


class StoredCompletions:
    """The shares of all ranks in a checkpoint, of which each rank finds what belongs to its own questions.

    Args:
        shares: What `share` returned on each rank of the run that saved them; their number may be another by now.
        rank: This rank, whose own share is looked at first.

    Attributes:
        missed: Whether they were of no use, as they belong to other questions.
    """

    def __init__(self, shares: Sequence[dict[str, Any]] = (), rank: int = 0) -> None:
        self._shares = [*shares[rank : rank + 1], *shares[:rank], *shares[rank + 1 :]]
        self.missed = False

    @staticmethod
    def nothing() -> dict[str, Any]:
        """The share of a rank that has no batch on its way."""
        return {"questions": [], "completions": [], "staleness": 0}

    @staticmethod
    def share(asked: Asked, completions: Sequence[Completion], staleness: int) -> dict[str, Any]:
        """A rank's completions, by the questions they belong to; without the batch, which a resumed run reads again."""
        plain = [asdict(completion) for completion in completions]
        for completion in plain:
            completion |= {name: completion[name].cpu() for name in ("token_ids", "logprobs")}
        return {"questions": asked.hashes(), "completions": plain, "staleness": staleness}

    def take(self, asked: Asked) -> tuple[list[Completion], int] | None:
        """The completions and their staleness, if there are any on every rank; they serve once."""
        shares, self._shares = self._shares, []
        if not shares:
            return None
        groups: dict[str, list[dict[str, Any]]] = {}
        for share in shares:
            if len(share["completions"]) == len(share["questions"]) * asked.group_size:
                for i, question in enumerate(share["questions"]):
                    rows = slice(i * asked.group_size, (i + 1) * asked.group_size)
                    groups.setdefault(question, share["completions"][rows])
        device, spare = asked.batch.valid.device, next(iter(groups.values()), [])  # a padding sample may take any
        questions = zip(asked.hashes(), asked.batch.valid.tolist(), strict=True)
        found = [groups.get(question, [] if valid else spare) for question, valid in questions]
        # Asking anew may be something that all ranks do together, such as gathering weights.
        self.missed = not all_reduce_min(int(all(found)), device)
        if self.missed:
            return None
        completions = [
            Completion(plain["token_ids"].to(device), plain["logprobs"].to(device), plain["finished"])
            for group in found
            for plain in group
        ]
        return completions, max(share["staleness"] for share in shares)
