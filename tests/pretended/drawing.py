"""Tokens that stand for sampled ones, since nobody knows a pretended device's logits."""

from __future__ import annotations

import torch

from tests.pretended.device import Sampler

TEXT_TOKEN = 300


def ending_after(steps: int, eos_token_id: int) -> Sampler:
    """Text, until all rows end with their `steps`-th token."""
    drawn = 0

    def sample(shape: torch.Size) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return torch.full(shape, eos_token_id if drawn >= steps else TEXT_TOKEN)

    return sample


def ending_unevenly(share: float, eos_token_id: int) -> Sampler:
    """Text, of which a random share are end tokens."""
    generator = torch.Generator().manual_seed(0)

    def sample(shape: torch.Size) -> torch.Tensor:
        tokens = torch.full(shape, TEXT_TOKEN)
        return tokens.masked_fill(torch.rand(shape, generator=generator) < share, eos_token_id)

    return sample
