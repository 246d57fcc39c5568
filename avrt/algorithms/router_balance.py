"""The router loss of an optimizer step of a mixture of experts, put together from its micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avrt.distributed import all_reduce_sum
from avrt.policy.policy import Scores


class RouterBalance:
    """Adds the load-balancing loss to the loss of each micro-batch; with weight 0 does nothing.

    Every token that the decoder reads weighs alike, prompts and completions, for any number of micro-batches and ranks:
    a micro-batch's loss counts by its share of the step's tokens. But that loss is a product of two means, and these
    are taken within the micro-batch: its size says among how many tokens experts are to be evenly used. Ranks change
    no more than which samples share one; of one sample or group each, nothing.

    Args:
        weight: Of the loss.
        parts: Of each micro-batch the lengths of its prompts, those of its completions, prompt by prompt, and whether
            each completion counts.
        device: Where the policy is.

    Attributes:
        value: This rank's share of the loss, unweighted, over all that was added.
    """

    def __init__(
        self, weight: float, parts: Sequence[tuple[Sequence[int], Sequence[int], Sequence[bool]]], device: torch.device
    ) -> None:
        self._weight = weight
        self._counted = [counted for _, _, counted in parts]
        self._tokens = [_read(*part) for part in parts]
        self._total = 1.0
        self.value = torch.zeros((), device=device)
        if weight:
            self._total = max(1.0, all_reduce_sum({"read": float(sum(self._tokens))}, device)["read"])

    def counted(self, part: int) -> Sequence[bool] | None:
        """Which completions of a micro-batch count, as the policy is to be asked; None to ask for no router loss."""
        return self._counted[part] if self._weight else None

    def added(self, loss: Tensor, scores: Scores, part: int) -> Tensor:
        """A micro-batch's loss with its share of the router loss."""
        if scores.router_loss is None:
            return loss
        share = scores.router_loss * (self._tokens[part] / self._total)
        self.value = self.value + share.detach()
        return loss + self._weight * share


def _read(prompts: Sequence[int], completions: Sequence[int], counted: Sequence[bool]) -> int:
    """Tokens that the decoder reads for completions that count; a completion's last one is only predicted."""
    size = len(completions) // len(prompts)
    each = zip(completions, counted, strict=True)
    return sum(counts * (prompts[i // size] + max(0, length - 1)) for i, (length, counts) in enumerate(each))
