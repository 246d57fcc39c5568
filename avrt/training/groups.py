"""Groups on their way from rollout to update, and DAPO's dynamic sampling, which waits for enough that can teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avrt.models.qwen2_5_omni.towers import ClipFeatures
from avrt.models.scoring import Prompts
from avrt.rollout.native import Completion


@dataclass(frozen=True)
class Group:
    """One question with its answers, ready to be learned from.

    Attributes:
        prompt: The question, alone in its `Prompts`.
        completions: G answers.
        advantages: (G,).
        valid: Whether it counts; False for rows that only keep ranks in step.
        fresh: Whether the policy that learns is still the one that sampled it.
    """

    prompt: Prompts
    completions: list[Completion]
    advantages: Tensor
    valid: bool
    fresh: bool = True

    def to_plain(self) -> dict[str, Any]:
        """Everything as dicts, lists and CPU tensors, for a checkpoint."""
        plain: dict[str, Any] = _plain(self, torch.device("cpu"))
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any], device: torch.device) -> Group:
        """The group that `to_plain` was called on."""
        parts = _plain(plain, device)
        prompt = Prompts(**{**parts["prompt"], "features": ClipFeatures(**parts["prompt"]["features"])})
        return cls(**{**parts, "prompt": prompt, "completions": [Completion(**c) for c in parts["completions"]]})


def _plain(value: Any, device: torch.device) -> Any:
    """Dataclasses as dicts, all the way down, with tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_plain(inner, device) for inner in value]
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    return {key: _plain(inner, device) for key, inner in value.items()} if isinstance(value, dict) else value


def join_prompts(groups: Sequence[Group]) -> Prompts:
    """The questions of several groups side by side."""
    return Prompts(
        [group.prompt.token_ids[0] for group in groups],
        [group.prompt.positions[0] for group in groups],
        ClipFeatures(
            [group.prompt.features.vision[0] for group in groups], [group.prompt.features.audio[0] for group in groups]
        ),
    )


class GroupQueue:
    """Collects groups that can teach something until there are enough for a step (DAPO, arXiv 2503.14476, sec. 3.2).

    A group whose rewards are all equal has no advantage and is left out. What is too much for one step is kept for the
    next one; its answers then come from an older policy, which their recorded log-probabilities account for.

    Args:
        patience: Batches that may be sampled for one step; after that it goes on with what there is.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._waiting: list[Group] = []
        self.batches = 0
        self.dropped = 0

    def __len__(self) -> int:
        """How many groups are waiting."""
        return len(self._waiting)

    def add(self, groups: Sequence[Group], equal: Tensor) -> None:
        """Add a batch's groups, all but those with equal rewards (`equal`, (B,)); two batches are kept at most."""
        self.batches += 1
        self._waiting += [g for g, same in zip(groups, equal.tolist(), strict=True) if g.valid and not same]
        excess = max(0, len(self._waiting) - 2 * len(groups))
        self.dropped = excess
        self._waiting = self._waiting[excess:]

    def take(self, count: int, fewest: int, spare: Group) -> list[Group] | None:
        """The groups of the next step, or None while more batches are to be sampled.

        Args:
            count: Groups per step.
            fewest: The smallest number waiting on any rank, so that all ranks decide alike.
            spare: Fills the step, marked as invalid, when patience has run out.
        """
        if fewest < count and self.batches < self._patience:
            return None
        taken = self._waiting[:count]
        self._waiting = [replace(group, fresh=False) for group in self._waiting[count:]]
        self.batches = 0
        return taken + [replace(spare, valid=False)] * (count - len(taken))

    def state_dict(self) -> dict[str, Any]:
        """This rank's share of a checkpoint: its waiting groups, and how long they have waited."""
        return {"batches": self.batches, "groups": [group.to_plain() for group in self._waiting]}

    def load_state_dict(self, shares: Sequence[dict[str, Any]], rank: int, ranks: int, device: torch.device) -> None:
        """Go on from the shares of all ranks; another number of ranks than saved them has the groups dealt anew."""
        groups = [group for share in shares for group in share["groups"]]
        mine = shares[rank]["groups"] if len(shares) == ranks else groups[rank::ranks]
        self._waiting = [Group.from_plain(plain, device) for plain in mine]
        self.batches = max((share["batches"] for share in shares), default=0)


def sampler_logprobs(groups: Sequence[Group]) -> Tensor:
    """(N,) log-probabilities of all answers' tokens as they were recorded while sampling."""
    return torch.cat([completion.logprobs for group in groups for completion in group.completions])
