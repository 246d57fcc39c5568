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
        recorded: (N,) log-probabilities as the sampler recorded them.
        old: (N,) log-probabilities under the policy before the first iteration; None until then.
    """

    prompts: EncodedPrompts
    tokens: list[Tensor]
    lengths: list[int]
    counted: list[bool]
    weights: Tensor
    advantages: Tensor
    fresh: Tensor
    recorded: Tensor
    old: Tensor | None = None

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
            torch.cat([completion.logprobs for completion in completions]),
        )
