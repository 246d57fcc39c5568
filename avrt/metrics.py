"""Answer metrics: accuracy overall and per question type, format compliance, parsed share and mean reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class AnswerMetrics(Metric):
    """Counts of answered questions, summed over batches and ranks.

    Args:
        question_types: The types to report separately; other types only count in the totals.
        with_reward: Report the mean reward too.
    """

    full_state_update = False
    answered: Tensor
    correct: Tensor
    well_formed: Tensor
    parsed: Tensor
    reward: Tensor

    def __init__(self, question_types: Sequence[str] = (), *, with_reward: bool = True) -> None:
        super().__init__()
        self.question_types = list(question_types)
        self.with_reward = with_reward
        size = len(self.question_types) + 1
        for name in ("answered", "correct", "well_formed", "parsed", "reward"):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, question_type: str | None, *, correct: bool, well_formed: bool, parsed: bool, reward: float = 0.0
    ) -> None:
        """Count one answer."""
        types = self.question_types
        slot = types.index(question_type) if question_type is not None and question_type in types else -1
        self.answered[slot] += 1
        self.correct[slot] += correct
        self.well_formed[slot] += well_formed
        self.parsed[slot] += parsed
        self.reward[slot] += reward

    def compute(self) -> dict[str, float]:
        """Shares between 0 and 1 and the mean reward; `accuracy/TYPE` only for types that occurred."""
        count = self.answered.sum().clamp(min=1.0)
        result = {
            "accuracy": (self.correct.sum() / count).item(),
            "format": (self.well_formed.sum() / count).item(),
            "parsed": (self.parsed.sum() / count).item(),
            **({"reward": (self.reward.sum() / count).item()} if self.with_reward else {}),
            "questions": self.answered.sum().item(),
        }
        for i, name in enumerate(self.question_types):
            if self.answered[i]:
                result[f"accuracy/{name}"] = (self.correct[i] / self.answered[i]).item()
        return result
