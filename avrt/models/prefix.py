"""Decoding over a shared prompt: the key-value cache of a prompt is read by all its answers and copied for none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedPrompts:
    """Prompt caches of B prompts, and which of R answer rows reads which.

    Attributes:
        keys: For each layer (B, key-value heads, P, D).
        values: For each layer (B, key-value heads, P, D).
        mask: (B, P) bool, False at padding.
        slots: (B, S) answer row in each slot of a prompt, padded with 0.
        filled: (B, S) bool, False at padding.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    slots: Tensor
    filled: Tensor

    def for_rows(self, owners: Tensor) -> SharedPrompts:
        """The same prompts read by other rows.

        Args:
            owners: (R,) prompt of each answer row, ascending; prompts that no row reads are dropped.
        """
        used, counts = owners.unique_consecutive(return_counts=True)
        steps = torch.arange(int(counts.max()), device=owners.device)
        filled = steps < counts[:, None]
        slots = ((counts.cumsum(0) - counts)[:, None] + steps).masked_fill(~filled, 0)
        if len(used) == len(self.mask):
            return SharedPrompts(self.keys, self.values, self.mask, slots, filled)
        keys, values = [k[used] for k in self.keys], [v[used] for v in self.values]
        return SharedPrompts(keys, values, self.mask[used], slots, filled)


def shared_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, prompts: SharedPrompts, scale: float
) -> Tensor:
    """Attention of one new token per row to its shared prompt and to its own tokens so far.

    Both parts share one softmax. All answers of a prompt are queries of one matrix product over that prompt's keys.

    Args:
        layer: Number of the decoder layer.
        query: (R, heads, 1, D).
        key: (R, key-value heads, t, D), the row's own, the new token's included.
        value: (R, key-value heads, t, D).
        prompts: The shared part.
        scale: Factor on the products.

    Returns:
        (R, 1, heads, D).
    """
    rows, heads, _, width = query.shape
    shared_key, shared_value = prompts.keys[layer], prompts.values[layer]
    count, groups, length, _ = shared_key.shape
    each = heads // groups
    grouped = query.view(rows, groups, each, width) * scale

    slots = prompts.slots.shape[1]
    asked = grouped[prompts.slots].permute(0, 2, 1, 3, 4).reshape(count, groups, slots * each, width)
    over_prompt = asked @ shared_key.transpose(-1, -2)
    over_prompt = over_prompt.masked_fill(~prompts.mask[:, None, None, :], -torch.inf)
    over_prompt = over_prompt.view(count, groups, slots, each, length).transpose(1, 2)[prompts.filled]
    over_own = grouped @ key.transpose(-1, -2)
    weights = torch.cat([over_prompt, over_own], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)

    placed = weights.new_zeros(count, slots, groups, each, length)
    placed[prompts.filled] = weights[..., :length]
    from_prompt = placed.transpose(1, 2).reshape(count, groups, slots * each, length) @ shared_value
    from_prompt = from_prompt.view(count, groups, slots, each, width).transpose(1, 2)[prompts.filled]
    attended = from_prompt + weights[..., length:] @ value
    return attended.reshape(rows, 1, heads, width)
