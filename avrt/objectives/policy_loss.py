"""The policy losses: the GRPO objective that AVRT optimizes, its published variants by name, and the KL estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
Average = Literal["sequence", "token", "constant"]
AVERAGES: dict[str, Average] = {
    "grpo": "sequence",
    "dr_grpo": "constant",
    "dapo": "token",
    "gspo": "sequence",
    "cispo": "token",
}


@dataclass(frozen=True)
class StepTotals:
    """What a step's loss is averaged over, counted over all micro-batches and ranks.

    Attributes:
        completions: Number of completions that count.
        tokens: Number of their tokens.
        longest: Longest completion that sampling allows, in tokens.
    """

    completions: float
    tokens: float
    longest: int


@dataclass(frozen=True)
class PolicyLoss:
    """A clipped policy loss with a KL penalty to the reference.

    Variants:
        grpo: Ratio and clip per token, mean over a completion's tokens, then over completions (DeepSeekMath, arXiv
            2402.03300, eq. 3). What AVRT uses.
        dr_grpo: The same, but tokens are summed and divided by a constant, and advantages are not divided by the
            group's deviation, which removes the bias towards long wrong and short right completions (arXiv 2503.20783).
        dapo: Asymmetric clip (`epsilon_high` 0.28 in the paper), mean over all tokens of the step (arXiv 2503.14476).
        gspo: One ratio per completion, the geometric mean of its tokens' ratios, clipped as a whole; the paper clips to
            3e-4 and 4e-4 (arXiv 2507.18071, eq. 5-7).
        cispo: The ratio only weighs the gradient of log p and is clipped from above, so no token loses its gradient;
            mean over all tokens (MiniMax-M1, arXiv 2506.13585, eq. 4-5).

    Attributes:
        loss_type: Which variant, as above.
        epsilon: The ratio is clipped from below at 1 - epsilon (not in cispo).
        epsilon_high: And from above at 1 + epsilon_high; the same as `epsilon` if not given.
        beta: Weight of the KL penalty.
        kl: Estimator of the divergence; see `kl_divergence`.
        importance_sampling_cap: Weigh each token by pi_old / pi_sampler, at most this much, where another engine or
            another precision drew the tokens than the one that scores them (truncated importance sampling, Yao et al.
            2025, as in TRL and verl; the papers use 2). 0 leaves the difference uncorrected.
    """

    loss_type: LossType = "grpo"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.01
    kl: Literal["k1", "k2", "k3"] = "k3"
    importance_sampling_cap: float = 0.0

    @property
    def normalizes_std(self) -> bool:
        """Whether the variant's advantages are divided by the group's standard deviation."""
        return self.loss_type != "dr_grpo"

    def __call__(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        reference_logprobs: Tensor | None,
        advantages: Tensor,
        sequences: Tensor,
        count: int,
        sampler_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each token; `average` turns it into a number.

        Args:
            logprobs: (N,) under the current policy, with gradient.
            old_logprobs: (N,) under the policy that sampled the tokens.
            reference_logprobs: (N,) under the reference; None only if beta is 0.
            advantages: (N,) each token's advantage, the same for all tokens of a completion.
            sequences: (N,) completion that each token belongs to.
            count: Number of completions.
            sampler_logprobs: (N,) as the sampler recorded them, for the importance correction.

        Returns:
            Loss (N,), and (N,) metrics without gradient: `ratio`, `clipped` (the clip acts on the gradient), `kl`;
            `importance`, the weight of the correction.

        Raises:
            ValueError: If a reference is needed and not given.
        """
        log_ratio = logprobs - old_logprobs
        if self.loss_type == "gspo":
            log_ratio = sequence_mean(log_ratio, sequences, count)[sequences]
        ratio = log_ratio.exp()
        above = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.loss_type == "cispo":
            loss = -ratio.clamp(max=above).detach() * advantages * logprobs
            clipped = ratio > above
        else:
            limited = ratio.clamp(1 - self.epsilon, above)
            loss = -torch.minimum(ratio * advantages, limited * advantages)
            clipped = (limited * advantages) < (ratio * advantages)
        metrics = {"ratio": ratio.detach(), "clipped": clipped.float().detach()}
        if self.importance_sampling_cap and sampler_logprobs is not None:
            metrics["importance"] = (
                (old_logprobs - sampler_logprobs).exp().clamp(max=self.importance_sampling_cap).detach()
            )
            loss = loss * metrics["importance"]
        if reference_logprobs is not None:
            divergence = kl_divergence(logprobs, reference_logprobs, self.kl)
            metrics["kl"] = divergence.detach()
            loss = loss + self.beta * divergence
        elif self.beta:
            raise ValueError("beta is not 0, so the reference's log-probabilities are needed")
        return loss, metrics

    def average(self, token_loss: Tensor, sequences: Tensor, valid: Tensor, totals: StepTotals) -> Tensor:
        """A micro-batch's share of the step's loss; shares add up over micro-batches and ranks.

        Args:
            token_loss: (N,) from the call.
            sequences: (N,) completion that each token belongs to.
            valid: (count,) 1, or 0 for completions that count for nothing.
            totals: What to divide by.
        """
        match AVERAGES[self.loss_type]:
            case "sequence":
                return (sequence_mean(token_loss, sequences, len(valid)) * valid).sum() / totals.completions
            case "token":
                return (token_loss * valid[sequences]).sum() / totals.tokens
            case "constant":
                return (token_loss * valid[sequences]).sum() / (totals.completions * totals.longest)


def kl_divergence(logprobs: Tensor, reference_logprobs: Tensor, estimator: str = "k3") -> Tensor:
    """Per-token estimate of KL(policy || reference) from tokens of the policy (Schulman, 2020).

    k1: pi - ref, unbiased, of either sign. k2: (pi - ref)^2 / 2, biased, small variance. k3: exp(ref - pi) - (ref - pi)
    - 1, unbiased and never negative, as in DeepSeekMath and AVRT.
    """
    difference = reference_logprobs - logprobs
    match estimator:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return difference.exp() - difference - 1
        case _:
            raise ValueError(f"no such KL estimator: {estimator} (k1, k2 or k3)")


def sequence_mean(values: Tensor, sequences: Tensor, count: int) -> Tensor:
    """Mean over each sequence's tokens.

    Args:
        values: (N,) per token.
        sequences: (N,) sequence of each token.
        count: Number of sequences.

    Returns:
        (count,); 0 for a sequence without tokens.
    """
    totals = values.new_zeros(count).index_add(0, sequences, values)
    lengths = values.new_zeros(count).index_add(0, sequences, torch.ones_like(values))
    return totals / lengths.clamp(min=1.0)
