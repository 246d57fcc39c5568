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
    """

    full_state_update = False

    def __init__(self, question_types: Sequence[str] = ()) -> None:
        super().__init__()
        self.question_types = list(question_types)
        size = len(self.question_types) + 1
        for name in ("answered", "correct", "well_formed", "parsed", "reward"):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, question_type: str | None, *, correct: bool, well_formed: bool, parsed: bool, reward: float
    ) -> None:
        """Count one answer."""
        known = question_type in self.question_types
        slot = self.question_types.index(question_type) if known and question_type is not None else -1
        for state, value in (
            (self.answered, 1.0),
            (self.correct, float(correct)),
            (self.well_formed, float(well_formed)),
            (self.parsed, float(parsed)),
            (self.reward, reward),
        ):
            assert isinstance(state, Tensor)
            state[slot] += value

    def compute(self) -> dict[str, float]:
        """Shares between 0 and 1 and the mean reward; `accuracy/TYPE` only for types that occurred."""
        states = [self.answered, self.correct, self.well_formed, self.parsed, self.reward]
        answered, correct, well_formed, parsed, reward = (s.cpu() for s in states if isinstance(s, Tensor))
        count = answered.sum().clamp(min=1.0)
        result = {
            "accuracy": (correct.sum() / count).item(),
            "format": (well_formed.sum() / count).item(),
            "parsed": (parsed.sum() / count).item(),
            "reward": (reward.sum() / count).item(),
            "questions": answered.sum().item(),
        }
        for i, name in enumerate(self.question_types):
            if answered[i]:
                result[f"accuracy/{name}"] = (correct[i] / answered[i]).item()
        return result
