"""Decoding over a shared prompt: the key-value cache of a prompt is read by all its completions and copied for none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedPrefix:
    """Prompt caches of B prompts, and which of R completion rows reads which.

    Attributes:
        keys: For each layer (B, key-value heads, P, D).
        values: For each layer (B, key-value heads, P, D).
        mask: (B, P) bool, False at padding.
        slots: (B, S) completion row in each slot of a prompt, padded with 0; None if each prompt is read by the same
            number of rows, prompt by prompt.
        filled: (B, S) bool, False at padding; None like `slots`.
        own: (t,) bool, which of a completion's own tokens there are yet, where they lie in a buffer of fixed size; None
            if all are.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    slots: Tensor | None = None
    filled: Tensor | None = None
    own: Tensor | None = None

    def for_rows(self, prompt_index: Tensor) -> SharedPrefix:
        """The same prompts read by other rows.

        Args:
            prompt_index: (R,) prompt of each completion row, ascending; prompts that no row reads are dropped.
        """
        used, counts = torch.unique_consecutive(prompt_index, return_counts=True)
        kept = self
        if len(used) < len(self.mask):
            kept = SharedPrefix([k[used] for k in self.keys], [v[used] for v in self.values], self.mask[used])
        steps = torch.arange(int(counts.max()), device=prompt_index.device)
        filled = steps < counts[:, None]
        if filled.all():
            return replace(kept, slots=None, filled=None)
        slots = ((counts.cumsum(0) - counts)[:, None] + steps).masked_fill(~filled, 0)
        return replace(kept, slots=slots, filled=filled)

    def by_prompt(self, rows: Tensor) -> Tensor:
        """Rows (R, ...) laid out as (B, S, ...); what lies at padding is not to be read."""
        return rows.view(len(self.mask), -1, *rows.shape[1:]) if self.slots is None else rows[self.slots]

    def by_row(self, slots: Tensor) -> Tensor:
        """The reverse: (B, S, ...) as rows (R, ...)."""
        return slots.flatten(0, 1) if self.filled is None else slots[self.filled]


def shared_prefix_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, prompts: SharedPrefix, scale: float
) -> Tensor:
    """Attention of one new token per row to its shared prompt and to its own tokens so far.

    Both parts share one softmax. All completions of a prompt are queries of one matrix product over that prompt's keys.

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
    key_BgPD, value_BgPD = prompts.keys[layer], prompts.values[layer]
    count, groups, length, _ = key_BgPD.shape
    each = heads // groups  # query heads that share one key-value head
    query_RgeD = query.view(rows, groups, each, width) * scale

    # S slots of each prompt hold the rows that read it.
    query_BgSeD = prompts.by_prompt(query_RgeD).transpose(1, 2)
    slots = query_BgSeD.shape[2]
    scores = query_BgSeD.reshape(count, groups, slots * each, width) @ key_BgPD.transpose(-1, -2)
    scores = scores.masked_fill(~prompts.mask[:, None, None, :], -torch.inf)
    prompt_scores_RgeP = prompts.by_row(scores.view(count, groups, slots, each, length).transpose(1, 2))
    own_scores_Rget = query_RgeD @ key.transpose(-1, -2)
    if prompts.own is not None:
        own_scores_Rget = own_scores_Rget.masked_fill(~prompts.own, -torch.inf)
    joined = torch.cat([prompt_scores_RgeP, own_scores_Rget], dim=-1)
    weights = joined.softmax(-1, dtype=torch.float32).to(query.dtype)

    weights_BgSeP = prompts.by_prompt(weights[..., :length]).transpose(1, 2)
    from_prompt = weights_BgSeP.reshape(count, groups, slots * each, length) @ value_BgPD
    from_prompt_RgeD = prompts.by_row(from_prompt.view(count, groups, slots, each, width).transpose(1, 2))
    attended_RgeD = from_prompt_RgeD + weights[..., length:] @ value
    return attended_RgeD.reshape(rows, 1, heads, width)
