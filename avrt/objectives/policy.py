"""The clipped policy loss with KL to a reference (the GRPO objective that AVRT optimizes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The GRPO objective (DeepSeekMath, arXiv 2402.03300, eq. 3; hyper-parameters of AVRT).

    Attributes:
        clip: The ratio is clipped to [1 - clip, 1 + clip].
        beta: Weight of the KL penalty.
    """

    clip: float = 0.2
    beta: float = 0.01

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, reference_logprobs: Tensor | None, advantages: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each token; the caller averages over a sequence's tokens and then over sequences.

        Args:
            logprobs: (N,) under the current policy, with gradient.
            old_logprobs: (N,) under the policy that sampled the tokens.
            reference_logprobs: (N,) under the reference; None only if beta is 0.
            advantages: (N,) each token's advantage, the same for all tokens of an answer.

        Returns:
            Loss (N,), and (N,) metrics without gradient: `ratio`, `clipped` (the clip acts on the gradient), `kl`.
        """
        ratio = (logprobs - old_logprobs).exp()
        limited = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * advantages, limited * advantages)
        metrics = {
            "ratio": ratio.detach(),
            "clipped": ((limited * advantages) < (ratio * advantages)).float().detach(),
        }
        if reference_logprobs is not None:
            kl = k3_divergence(logprobs, reference_logprobs)
            metrics["kl"] = kl.detach()
            loss = loss + self.beta * kl
        elif self.beta:
            raise ValueError("beta is not 0, so the reference's log-probabilities are needed")
        return loss, metrics


def k3_divergence(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(ref - pi) - (ref - pi) - 1, unbiased and never negative.

    The k3 estimator (Schulman, "Approximating KL divergence", 2020), as DeepSeekMath uses it.
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def sequence_mean(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Mean over each sequence's tokens.

    Args:
        values: (N,) per token.
        rows: (N,) sequence of each token.
        count: Number of sequences.

    Returns:
        (count,); 0 for a sequence without tokens.
    """
    totals = values.new_zeros(count).index_add(0, rows, values)
    lengths = values.new_zeros(count).index_add(0, rows, torch.ones_like(values))
    return totals / lengths.clamp(min=1.0)
