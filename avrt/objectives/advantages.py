"""Group-normalized advantages (AVRT eq. 2)."""

from __future__ import annotations

from torch import Tensor

ZERO_SPREAD = 1e-6
STD_EPSILON = 1e-4


def group_advantages(
    rewards: Tensor, *, normalize_std: bool = True, unbiased: bool = True, epsilon: float = STD_EPSILON
) -> tuple[Tensor, Tensor]:
    """Advantage of each completion within its group: (r_i - mean r) / (std r + epsilon).

    The paper says neither how the deviation is estimated nor what is added to it. The defaults are those of TRL and of
    EchoInk, with which the authors compare. Without an epsilon, completions whose rewards differ by a ten-thousandth
    (the tail of the length reward does that) would get advantages as large as right and wrong ones do.

    Args:
        rewards: (B, G) total rewards.
        normalize_std: Divide by the standard deviation (off: Dr. GRPO, arXiv 2503.20783).
        unbiased: Divide by G - 1 in the variance; otherwise by G.
        epsilon: Added to the deviation, in units of reward.

    Returns:
        Advantages (B, G), and for each group (B,) whether its rewards are equal. Those have advantage 0: where all
        completions are equally good there is nothing to learn, and 0 / 0 must not decide.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # Differences below the rounding error of a sum of rewards are no differences.
    zero_std = (rewards.amax(dim=1) - rewards.amin(dim=1)) <= ZERO_SPREAD * rewards.abs().amax(dim=1).clamp(min=1.0)
    if normalize_std:
        correction = 1 if unbiased and rewards.shape[1] > 1 else 0
        std = rewards.std(dim=1, keepdim=True, correction=correction) + epsilon
        centred = centred / std.masked_fill(zero_std[:, None], 1.0)
    return centred.masked_fill(zero_std[:, None], 0.0), zero_std
