"""Group-normalized advantages (AVRT eq. 2)."""

from __future__ import annotations

from torch import Tensor

EQUAL_SPREAD = 1e-6


def group_advantages(rewards: Tensor, *, normalize_std: bool = True, unbiased: bool = False) -> tuple[Tensor, Tensor]:
    """Advantage of each answer within its group: (r_i - mean r) / std r.

    Args:
        rewards: (B, G) total rewards.
        normalize_std: Divide by the standard deviation (off: Dr. GRPO, arXiv 2503.20783).
        unbiased: Divide by G - 1 in the variance instead of G; the paper does not say which.

    Returns:
        Advantages (B, G), and for each group (B,) whether its rewards are equal. Those have advantage 0: where all
        answers are as good as each other there is nothing to learn, and 0 / 0 must not decide.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # Differences below the rounding error of a sum of rewards are no differences.
    equal = (rewards.amax(dim=1) - rewards.amin(dim=1)) <= EQUAL_SPREAD * rewards.abs().amax(dim=1).clamp(min=1.0)
    if normalize_std:
        correction = 1 if unbiased and rewards.shape[1] > 1 else 0
        std = rewards.std(dim=1, keepdim=True, correction=correction)
        centred = centred / std.masked_fill(equal[:, None], 1.0)
    return centred.masked_fill(equal[:, None], 0.0), equal
