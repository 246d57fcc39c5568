"""Packed rows: each prompt once with its completions behind it, several such groups in one row, and their attention.

Every linear layer then sees a prompt once instead of once per completion, and no padding. Attention needs no mask over
the row: a prompt attends causally to itself, and each completion to its prompt and causally to itself, in two calls per
group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class PackedGroup:
    """Where one group lies in the row.

    Attributes:
        start: First token of the prompt.
        prompt: Number of prompt tokens.
        completions: Number of input tokens of each completion, in the order they follow the prompt; may be 0.
        gather: (G, R) tokens of the completions relative to the first completion's start, padded with 0 on the right.
        mask: (R, prompt + R) bool, what a completion's tokens may attend to: its prompt, and itself causally.
        real: (G, R) bool, False at padding.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]
    gather: Tensor
    mask: Tensor
    real: Tensor

    @property
    def length(self) -> int:
        """Number of tokens of the group."""
        return self.prompt + sum(self.completions)


@dataclass
class PackedRow:
    """Groups one behind the other.

    Attributes:
        groups: In the order of the row.
        block_mask: Made on first use where FlexAttention needs it, and then kept for all layers.
    """

    groups: list[PackedGroup]
    block_mask: BlockMask | None = None


def pack_groups(prompts: Sequence[int], completions: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    """Lay groups out one behind the other.

    Args:
        prompts: Length of each prompt, at least 1.
        completions: For each prompt the number of input tokens of each of its completions.
        device: Where the index tensors go.
    """
    groups: list[PackedGroup] = []
    start = 0
    for prompt, lengths in zip(prompts, completions, strict=True):
        sizes = torch.tensor(list(lengths), device=device)
        steps = torch.arange(max(lengths, default=0), device=device)
        real = steps < sizes[:, None]
        gather = ((sizes.cumsum(0) - sizes)[:, None] + steps).masked_fill(~real, 0)
        mask = torch.ones(len(steps), prompt + len(steps), dtype=torch.bool, device=device).tril(prompt)
        groups.append(PackedGroup(start, prompt, tuple(lengths), gather, mask, real))
        start += groups[-1].length
    return PackedRow(groups)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """Attention of every token to its own prompt and completion.

    Shape letters: T tokens of the row, h heads, P and R tokens of a group's prompt and longest completion, G
    completions, D width of a head.

    Args:
        query: (1, h, T, D).
        key: (1, key-value heads, T, D).
        value: (1, key-value heads, T, D).
        row: The layout of the T tokens.
        scale: Factor on the products.

    Returns:
        (1, T, h, D).
    """
    pieces: list[Tensor] = []
    for group in row.groups:
        end, completions_at = group.start + group.length, group.start + group.prompt
        if len(group.completions) == 1 or not group.real.any():
            # One completion is simply the rest of a causal sequence.
            span = slice(group.start, end)
            pieces.append(_attend(query[:, :, span], key[:, :, span], value[:, :, span], scale, causal=True)[0])
            continue
        prompt = slice(group.start, completions_at)
        q_1hPD, k_1hPD, v_1hPD = (t[:, :, prompt] for t in (query, key, value))
        pieces.append(_attend(q_1hPD, k_1hPD, v_1hPD, scale, causal=True)[0])
        own_q_GhRD, own_k_GhRD, own_v_GhRD = (
            t[0, :, completions_at:end][:, group.gather].transpose(0, 1) for t in (query, key, value)
        )
        shared = (len(group.completions), -1, -1, -1)
        keys = torch.cat([k_1hPD.expand(shared), own_k_GhRD], dim=2)  # (G, h, P + R, D)
        values = torch.cat([v_1hPD.expand(shared), own_v_GhRD], dim=2)
        attended_GhRD = _attend(own_q_GhRD, keys, values, scale, mask=group.mask)
        pieces.append(attended_GhRD.transpose(1, 2)[group.real].transpose(0, 1))
    return torch.cat(pieces, dim=1).transpose(0, 1)[None]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True)
