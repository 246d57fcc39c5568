"""Packed rows: each prompt once with its answers behind it, several such groups in one row, and attention over them.

Every linear layer then sees a prompt once instead of once per answer, and no padding. Attention needs no mask over the
row: a prompt attends causally to itself, and each answer to its prompt and causally to itself, in two calls per group.
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
        answers: Number of input tokens of each answer, in the order they follow the prompt; may be 0.
        gather: (G, R) tokens of the answers relative to the first answer's start, padded with 0 on the right.
        mask: (R, prompt + R) bool, what an answer's tokens may attend to: its prompt, and itself causally.
        real: (G, R) bool, False at padding.
    """

    start: int
    prompt: int
    answers: tuple[int, ...]
    gather: Tensor
    mask: Tensor
    real: Tensor

    @property
    def length(self) -> int:
        """Number of tokens of the group."""
        return self.prompt + sum(self.answers)


@dataclass
class PackedRow:
    """Groups one behind the other.

    Attributes:
        groups: In the order of the row.
        block_mask: Made on first use where FlexAttention needs it, and then kept for all layers.
    """

    groups: list[PackedGroup]
    block_mask: BlockMask | None = None


def pack_groups(prompts: Sequence[int], answers: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    """Lay groups out one behind the other.

    Args:
        prompts: Length of each prompt, at least 1.
        answers: For each prompt the number of input tokens of each of its answers.
        device: Where the index tensors go.
    """
    groups: list[PackedGroup] = []
    start = 0
    for prompt, lengths in zip(prompts, answers, strict=True):
        sizes = torch.tensor(list(lengths), device=device)
        steps = torch.arange(max(lengths, default=0), device=device)
        real = steps < sizes[:, None]
        gather = ((sizes.cumsum(0) - sizes)[:, None] + steps).masked_fill(~real, 0)
        mask = torch.ones(len(steps), prompt + len(steps), dtype=torch.bool, device=device).tril(prompt)
        groups.append(PackedGroup(start, prompt, tuple(lengths), gather, mask, real))
        start += groups[-1].length
    return PackedRow(groups)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """Attention of every token to its own prompt and answer.

    Args:
        query: (1, heads, T, D).
        key: (1, key-value heads, T, D).
        value: (1, key-value heads, T, D).
        row: The layout of the T tokens.
        scale: Factor on the products.

    Returns:
        (1, T, heads, D).
    """
    pieces: list[Tensor] = []
    for group in row.groups:
        end, answers_at = group.start + group.length, group.start + group.prompt
        if len(group.answers) == 1 or not group.real.any():
            # One answer is simply the rest of a causal sequence.
            span = slice(group.start, end)
            pieces.append(_attend(query[:, :, span], key[:, :, span], value[:, :, span], scale, causal=True)[0])
            continue
        prompt = slice(group.start, answers_at)
        q, k, v = (t[:, :, prompt] for t in (query, key, value))
        pieces.append(_attend(q, k, v, scale, causal=True)[0])
        own_q, own_k, own_v = (t[0, :, answers_at:end][:, group.gather].transpose(0, 1) for t in (query, key, value))
        shared = (len(group.answers), -1, -1, -1)
        keys, values = torch.cat([k.expand(shared), own_k], dim=2), torch.cat([v.expand(shared), own_v], dim=2)
        attended = _attend(own_q, keys, values, scale, mask=group.mask)
        pieces.append(attended.transpose(1, 2)[group.real].transpose(0, 1))
    return torch.cat(pieces, dim=1).transpose(0, 1)[None]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True)
