"""One sampled completion."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Completion:
    """What a policy wrote after a prompt.

    Attributes:
        token_ids: (R,) tokens, with the end token if it came.
        logprobs: (R,) float32 log-probability of each under the distribution it was drawn from.
        finished: Whether it ended by itself rather than being cut off.
    """

    token_ids: Tensor
    logprobs: Tensor
    finished: bool
