"""Groups of one forward and backward pass, in the form that the policy loss takes; all numbers come from the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.algorithms.groups import Group
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.transfer import tensor_on


@dataclass
class MicroBatch:
    """Some groups, n completions and N tokens in all, in the form that the loss takes.

    Attributes:
        prompts: Their questions.
        tokens: n tensors of token ids.
        lengths: Their lengths.
        counted: Whether each completion counts.
        weights: (n,) the same as 1 or 0.
        advantages: (n,).
        fresh: (n,) bool, whether the policy that learns is the one that sampled it.
        staleness: (n,) updates of the policy since it sampled it.
        recorded: (N,) log-probabilities under the behaviour policy, as the sampler recorded them.
        proximal: (N,) log-probabilities under the policy before the first iteration; None until then.
    """

    prompts: EncodedPrompts
    tokens: list[Tensor]
    lengths: list[int]
    counted: list[bool]
    weights: Tensor
    advantages: Tensor
    fresh: Tensor
    staleness: Tensor
    recorded: Tensor
    proximal: Tensor | None = None

    def old_logprobs(self, logprobs: Tensor, index: Tensor, *, decoupled: bool) -> tuple[Tensor, Tensor]:
        """The log-probabilities (N,) that the ratio is taken to, and those of the policy before the first iteration.

        For a fresh group both are the same, and the first pass over it computes them. A stale one was sampled by an
        earlier policy, the behaviour policy, whose log-probabilities were recorded. Ratio and clip to these correct for
        that, as in PPO; or they go to the proximal policy, the one before the update, and the importance weight of the
        loss corrects (decoupled PPO: Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298, sec. 5.2).

        Args:
            logprobs: (N,) under the current policy.
            index: (N,) the completion that each token belongs to.
            decoupled: Which of the two for stale groups.
        """
        if self.proximal is None:
            self.proximal = logprobs.detach()
        stale = self.proximal if decoupled else self.recorded
        return torch.where(self.fresh[index], self.proximal, stale), self.proximal

    @classmethod
    def of(cls, groups: Sequence[Group], device: torch.device, *, mask_truncated: bool) -> MicroBatch:
        """Take some groups together; `mask_truncated` leaves out completions that were cut off."""
        completions = [completion for group in groups for completion in group.completions]
        counted = [
            group.valid and (completion.finished or not mask_truncated)
            for group in groups
            for completion in group.completions
        ]
        return cls(
            EncodedPrompts.join([group.prompt for group in groups]),
            [completion.token_ids for completion in completions],
            [len(completion.token_ids) for completion in completions],
            counted,
            tensor_on([float(counts) for counts in counted], device),
            torch.cat([group.advantages for group in groups]),
            tensor_on([group.fresh for group in groups for _ in group.completions], device),
            tensor_on([float(group.staleness) for group in groups for _ in group.completions], device),
            torch.cat([completion.logprobs for completion in completions]),
        )
