"""Decoding over a shared prompt: the key-value cache of a prompt is read by all its answers and copied for none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedPrefix:
    """Prompt caches of B prompts, and which of R answer rows reads which.

    Attributes:
        keys: For each layer (B, key-value heads, P, D).
        values: For each layer (B, key-value heads, P, D).
        mask: (B, P) bool, False at padding.
        slots: (B, S) answer row in each slot of a prompt, padded with 0; None if each prompt is read by the same
            number of rows, prompt by prompt.
        filled: (B, S) bool, False at padding; None like `slots`.
        own: (t,) bool, which of an answer's own tokens there are yet, where they lie in a buffer of fixed size; None
            if all are.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    slots: Tensor | None = None
    filled: Tensor | None = None
    own: Tensor | None = None

    def for_rows(self, owners: Tensor) -> SharedPrefix:
        """The same prompts read by other rows.

        Args:
            owners: (R,) prompt of each answer row, ascending; prompts that no row reads are dropped.
        """
        used, counts = owners.unique_consecutive(return_counts=True)
        kept = self
        if len(used) < len(self.mask):
            kept = SharedPrefix([k[used] for k in self.keys], [v[used] for v in self.values], self.mask[used])
        steps = torch.arange(int(counts.max()), device=owners.device)
        filled = steps < counts[:, None]
        if filled.all():
            return replace(kept, slots=None, filled=None)
        slots = ((counts.cumsum(0) - counts)[:, None] + steps).masked_fill(~filled, 0)
        return replace(kept, slots=slots, filled=filled)

    def by_prompt(self, rows: Tensor) -> Tensor:
        """Rows (R, ...) laid out as (B, S, ...); what lies at padding is not to be read."""
        return rows.unflatten(0, (len(self.mask), -1)) if self.slots is None else rows[self.slots]

    def by_row(self, slots: Tensor) -> Tensor:
        """The reverse: (B, S, ...) as rows (R, ...)."""
        return slots.flatten(0, 1) if self.filled is None else slots[self.filled]


def shared_prefix_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, prompts: SharedPrefix, scale: float
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

    asked = prompts.by_prompt(grouped).transpose(1, 2)  # (B, groups, S, each, D)
    slots = asked.shape[2]
    over_prompt = asked.reshape(count, groups, slots * each, width) @ shared_key.transpose(-1, -2)
    over_prompt = over_prompt.masked_fill(~prompts.mask[:, None, None, :], -torch.inf)
    over_prompt = prompts.by_row(over_prompt.view(count, groups, slots, each, length).transpose(1, 2))
    over_own = grouped @ key.transpose(-1, -2)
    if prompts.own is not None:
        over_own = over_own.masked_fill(~prompts.own, -torch.inf)
    weights = torch.cat([over_prompt, over_own], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)

    placed = prompts.by_prompt(weights[..., :length]).transpose(1, 2)
    from_prompt = placed.reshape(count, groups, slots * each, length) @ shared_value
    from_prompt = prompts.by_row(from_prompt.view(count, groups, slots, each, width).transpose(1, 2))
    attended = from_prompt + weights[..., length:] @ value
    return attended.reshape(rows, 1, heads, width)
