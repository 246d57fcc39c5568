"""Packed rows: each prompt once with its completions behind it, several such groups in one row, and their attention.

Every linear layer then sees a prompt once instead of once per completion, and no padding. Attention needs no mask over
the row: a prompt attends causally to itself, and each completion to its prompt and causally to itself. On a GPU all
that is one fused call; elsewhere two calls per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from avrt.models.varlen import Sequences, supports_varlen, varlen_attention
from avrt.transfer import tensor_on, to_device


@dataclass(frozen=True)
class PackedGroup:
    """Where one group lies in the row.

    Attributes:
        start: First token of the prompt.
        prompt: Number of prompt tokens.
        completions: Number of input tokens of each completion, in the order they follow the prompt; may be 0.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens of the group."""
        return self.prompt + sum(self.completions)


@dataclass(frozen=True)
class PaddedCompletions:
    """A group's completions as a rectangle of G rows, R tokens each, for attention that wants one.

    Attributes:
        gather: (G * R,) where each lies among the group's completion tokens; padding repeats the first.
        scatter: (tokens,) where in the rectangle, flattened, each completion token lies.
        mask: (R, prompt + R) bool, what a completion's tokens may attend to: its prompt, and itself causally.
    """

    gather: Tensor
    scatter: Tensor
    mask: Tensor


@dataclass
class PackedRow:
    """Groups one behind the other. The index tensors are made on first use and serve all layers.

    Attributes:
        groups: In the order of the row.
        device: Where the index tensors go.
        block_mask: Made on first use where FlexAttention needs it.
    """

    groups: list[PackedGroup]
    device: torch.device
    block_mask: BlockMask | None = None

    @cached_property
    def key_index(self) -> Tensor:
        """(K,) where in the row the keys of each sequence are: a completion's are its prompt and itself."""
        pieces: list[Tensor] = []
        for group in self.groups:
            prompt = torch.arange(group.start, group.start + group.prompt, device="cpu")
            pieces.append(prompt)
            at = group.start + group.prompt
            for length in group.completions:
                if length:
                    pieces += [prompt, torch.arange(at, at + length, device="cpu")]
                at += length
        return to_device(torch.cat(pieces), self.device)

    @cached_property
    def sequences(self) -> Sequences:
        """Each prompt, and each completion with its prompt's keys before its own, in the order of the row."""
        queries, keys = [], []
        for group in self.groups:
            queries += [group.prompt, *(n for n in group.completions if n)]
            keys += [group.prompt, *(group.prompt + n for n in group.completions if n)]
        return Sequences.of(queries, keys, self.device)

    @cached_property
    def rectangles(self) -> list[PaddedCompletions | None]:
        """Each group's completions as a rectangle; None where they are simply the rest of a causal sequence."""
        return [self._rectangle(group) for group in self.groups]

    def _rectangle(self, group: PackedGroup) -> PaddedCompletions | None:
        lengths = group.completions
        if len(lengths) == 1 or not any(lengths):
            return None
        longest = max(lengths)
        gather: list[int] = []
        scatter: list[int] = []
        before = 0
        for row, length in enumerate(lengths):
            gather += [*range(before, before + length), *[0] * (longest - length)]
            scatter += range(row * longest, row * longest + length)
            before += length
        mask = torch.ones(longest, group.prompt + longest, dtype=torch.bool, device=self.device).tril(group.prompt)
        return PaddedCompletions(tensor_on(gather, self.device), tensor_on(scatter, self.device), mask)


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
        groups.append(PackedGroup(start, prompt, tuple(lengths)))
        start += groups[-1].length
    return PackedRow(groups, device)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """Attention of every token to its own prompt and completion.

    Args:
        query: (1, h, T, D).
        key: (1, key-value heads, T, D).
        value: (1, key-value heads, T, D).
        row: The layout of the T tokens.
        scale: Factor on the products.

    Returns:
        (1, T, h, D).
    """
    if not supports_varlen(query):
        return _attend_by_group(query, key, value, row, scale)
    # A prompt's keys are read by its completions too: their gradients are added up in the keys' own type.
    query_ThD, key_TgD, value_TgD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    keys, values = (tensor.index_select(0, row.key_index) for tensor in (key_TgD, value_TgD))
    attended_ThD, _ = varlen_attention(query_ThD, keys, values, row.sequences, scale, causal=True)
    return attended_ThD[None]


def _attend_by_group(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """Two calls per group, the completions padded to a rectangle: P and R tokens of prompt and longest completion."""
    pieces: list[Tensor] = []
    for group, rectangle in zip(row.groups, row.rectangles, strict=True):
        end, completions_at = group.start + group.length, group.start + group.prompt
        if rectangle is None:
            span = slice(group.start, end)
            pieces.append(_attend(query[:, :, span], key[:, :, span], value[:, :, span], scale, causal=True)[0])
            continue
        prompt = slice(group.start, completions_at)
        q_1hPD, k_1hPD, v_1hPD = (t[:, :, prompt] for t in (query, key, value))
        pieces.append(_attend(q_1hPD, k_1hPD, v_1hPD, scale, causal=True)[0])
        count = len(group.completions)
        own_q_GhRD, own_k_GhRD, own_v_GhRD = (
            t[0, :, completions_at:end]
            .index_select(1, rectangle.gather)
            .reshape(t.shape[1], count, -1, t.shape[3])
            .transpose(0, 1)
            for t in (query, key, value)
        )  # fmt: skip
        shared = (count, -1, -1, -1)
        keys = torch.cat([k_1hPD.expand(shared), own_k_GhRD], dim=2)  # (G, h, P + R, D)
        values = torch.cat([v_1hPD.expand(shared), own_v_GhRD], dim=2)
        attended_GhRD = _attend(own_q_GhRD, keys, values, scale, mask=rectangle.mask)
        pieces.append(attended_GhRD.transpose(0, 1).flatten(1, 2).index_select(1, rectangle.scatter))
    return torch.cat(pieces, dim=1).transpose(0, 1)[None]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True)
