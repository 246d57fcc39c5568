"""Groups on their way from rollout to update, and dynamic sampling (DAPO), which fills a step with useful ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_min
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.tower_inputs import TowerInputs
from avrt.rollout.completion import Completion


@dataclass(frozen=True)
class Sampled:
    """Completions of the B prompts of a batch, before anything is known of their rewards.

    Attributes:
        batch: The questions.
        prompts: The same, encoded.
        completions: B * G of them, prompt by prompt.
        seconds: How long this process was busy with them, `rollout`; and waited for an engine that worked beside it,
            `wait`.
        staleness: Updates of the policy since it was given to the engine that sampled.
        sampling_seconds: From the question to the last completion.
    """

    batch: OmniBatch
    prompts: EncodedPrompts
    completions: list[Completion]
    seconds: dict[str, float]
    staleness: int
    sampling_seconds: float


@dataclass(frozen=True)
class Rollout:
    """Groups of completions of the B prompts of a batch, with their rewards and advantages.

    Attributes:
        batch: The questions.
        completions: B * G completions, prompt by prompt.
        texts: Their texts.
        rewards: Name of each reward, and `total` -> (B, G).
        advantages: (B, G).
        zero_std: (B,) whether a group's rewards are all equal, so that it has no advantage.
    """

    batch: OmniBatch
    completions: list[Completion]
    texts: list[str]
    rewards: dict[str, Tensor]
    advantages: Tensor
    zero_std: Tensor


@dataclass(frozen=True)
class Group:
    """One question with its completions, ready to be learned from.

    Attributes:
        prompt: The question, alone in its `EncodedPrompts`.
        completions: G of them.
        advantages: (G,).
        valid: Whether it counts; False for groups of padding samples.
        staleness: Updates of the policy since it sampled the group; 0 while it is still the one that learns.
    """

    prompt: EncodedPrompts
    completions: list[Completion]
    advantages: Tensor
    valid: bool
    staleness: int = 0

    @property
    def fresh(self) -> bool:
        """Whether the policy that learns is still the one that sampled it."""
        return self.staleness == 0

    def to_plain(self) -> dict[str, Any]:
        """Everything as dicts, lists and CPU tensors, for a checkpoint."""
        plain: dict[str, Any] = _plain(self, torch.device("cpu"))
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any], device: torch.device) -> Group:
        """The group that `to_plain` was called on."""
        parts = _plain(plain, device)
        if "fresh" in parts:  # as earlier versions wrote it
            parts["staleness"] = int(not parts.pop("fresh"))
        asked = parts["prompt"]
        inputs = [TowerInputs.from_plain(row) for row in asked.get("tower_inputs", [])]  # earlier versions had none
        prompt = EncodedPrompts(**{**asked, "features": ClipFeatures(**asked["features"]), "tower_inputs": inputs})
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


def select_groups(
    prompts: EncodedPrompts, rollout: Rollout, queue: GroupQueue | None, staleness: int = 0
) -> list[Group] | None:
    """The groups to learn from now: a batch's own, or the queue's; None if more are to be sampled first."""
    size = rollout.advantages.shape[1]
    of_each = [rollout.completions[b * size : (b + 1) * size] for b in range(len(rollout.batch))]
    groups = [
        Group(prompts.rows([b]), of_each[b], rollout.advantages[b], valid, staleness)
        for b, valid in enumerate(rollout.batch.valid.tolist())
    ]
    if queue is None:
        return groups
    queue.add(groups, rollout.zero_std)
    return queue.take(len(groups), all_reduce_min(len(queue), rollout.batch.valid.device), groups[0])


class GroupQueue:
    """Collects groups with unequal rewards until a step is full (DAPO's dynamic sampling, arXiv 2503.14476, sec. 3.2).

    A group whose rewards are all equal has no advantage and is left out. What is too much for one step is kept for the
    next one; its completions then come from an older policy, which their recorded log-probabilities account for.

    Args:
        patience: Batches that may be sampled for one step; after that it goes on with what there is.

    Attributes:
        batches: How many were sampled for the step that is being filled.
        discarded: How many of the oldest groups the last batch pushed out.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._waiting: list[Group] = []
        self.batches = 0
        self.discarded = 0

    def __len__(self) -> int:
        """How many groups are waiting."""
        return len(self._waiting)

    def add(self, groups: Sequence[Group], zero_std: Tensor) -> None:
        """Add a batch's groups, all but those with equal rewards (`zero_std`, (B,)); two batches are kept at most."""
        self.batches += 1
        self._waiting += [g for g, same in zip(groups, zero_std.tolist(), strict=True) if g.valid and not same]
        excess = max(0, len(self._waiting) - 2 * len(groups))
        self.discarded = excess
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
        self._waiting = [replace(group, staleness=group.staleness + 1) for group in self._waiting[count:]]
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
