"""Packed rows: each prompt once with its completions behind it, several such groups in one row, and their attention.

Every linear layer then sees a prompt once instead of once per completion, and no padding. Attention needs no mask over
the row: a prompt attends causally to itself, and each completion to its prompt and causally to itself, where a layer
has a window as far back as it reaches. On a GPU all that is one fused call; elsewhere two calls per group, whose
completions may then be a tree (`avrt.models.prefix_tree`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from avrt.models.prefix_tree import PrefixTree
from avrt.models.varlen import Sequences, supports_varlen, varlen_attention
from avrt.transfer import tensor_on, to_device


@dataclass(frozen=True)
class PackedGroup:
    """Where one group lies in the row.

    Attributes:
        start: First token of the prompt.
        prompt: Number of prompt tokens.
        completions: Number of input tokens of each completion, in the order they follow the prompt; may be 0. All of a
            tree's are one number.
        tree: What these see of each other, where they are not separate completions.
    """

    start: int
    prompt: int
    completions: tuple[int, ...]
    tree: PrefixTree | None = None

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
        longest: R.
    """

    gather: Tensor
    scatter: Tensor
    longest: int


@dataclass
class PackedRow:
    """Groups one behind the other. The index tensors are made on first use and serve all layers.

    Attributes:
        groups: In the order of the row.
        device: Where the index tensors go.
        block_masks: By window, made on first use where FlexAttention needs them.
    """

    groups: list[PackedGroup]
    device: torch.device
    block_masks: dict[int | None, BlockMask] = field(default_factory=dict)
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    _tree_masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

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
        if group.tree is not None or len(lengths) == 1 or not any(lengths):
            return None
        longest = max(lengths)
        gather: list[int] = []
        scatter: list[int] = []
        before = 0
        for row, length in enumerate(lengths):
            gather += [*range(before, before + length), *[0] * (longest - length)]
            scatter += range(row * longest, row * longest + length)
            before += length
        return PaddedCompletions(tensor_on(gather, self.device), tensor_on(scatter, self.device), longest)

    def mask(self, queries: int, keys: int, window: int | None) -> Tensor:
        """(queries, keys) bool, what the last tokens of a sequence may attend to: those before, within the window."""
        shape = queries, keys, window
        if shape not in self._masks:
            before = torch.ones(queries, keys, dtype=torch.bool, device=self.device).tril(keys - queries)
            self._masks[shape] = before if window is None else before.triu(keys - queries - window + 1)
        return self._masks[shape]

    def tree_mask(self, group: PackedGroup, window: int | None) -> Tensor:
        """(n, prompt + n) bool, what the n tokens of a group's tree may attend to."""
        assert group.tree is not None
        known = group.start, window
        if known not in self._tree_masks:
            self._tree_masks[known] = group.tree.mask(group.prompt, window)
        return self._tree_masks[known]


def pack_groups(
    prompts: Sequence[int],
    completions: Sequence[Sequence[int]],
    device: torch.device,
    trees: Sequence[PrefixTree | None] | None = None,
) -> PackedRow:
    """Lay groups out one behind the other.

    Args:
        prompts: Length of each prompt, at least 1.
        completions: For each prompt the number of input tokens of each of its completions; of a tree how many it has.
        device: Where the index tensors go.
        trees: For each prompt the tree that its completions are, if they are one.
    """
    groups: list[PackedGroup] = []
    start = 0
    for prompt, lengths, tree in zip(prompts, completions, trees or [None] * len(prompts), strict=True):
        groups.append(PackedGroup(start, prompt, tuple(lengths), tree))
        start += groups[-1].length
    return PackedRow(groups, device)


def reads_trees(weight: Tensor, width: int) -> bool:
    """Whether `packed_attention` can be given trees: not where it is the fused kernel, of weights and heads like these.

    Nor on any GPU: the tree is made on the host, which would have to wait for the completions.
    """
    return weight.device.type == "cpu" and not supports_varlen(weight, width)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float, window: int | None = None
) -> Tensor:
    """Attention of every token to its own prompt and completion.

    Args:
        query: (1, h, T, D).
        key: (1, key-value heads, T, D).
        value: (1, key-value heads, T, D).
        row: The layout of the T tokens.
        scale: Factor on the products.
        window: How many tokens a token sees, itself included; None for all before it.

    Returns:
        (1, T, h, D).
    """
    if not supports_varlen(query):
        return _attend_by_group(query, key, value, row, scale, window)
    # A prompt's keys are read by its completions too: their gradients are added up in the keys' own type.
    query_ThD, key_TgD, value_TgD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    keys, values = (tensor.index_select(0, row.key_index) for tensor in (key_TgD, value_TgD))
    attended_ThD, _ = varlen_attention(query_ThD, keys, values, row.sequences, scale, causal=True, window=window)
    return attended_ThD[None]


def _attend_by_group(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float, window: int | None
) -> Tensor:
    """Two calls per group, the completions padded to a rectangle: P and R tokens of prompt and longest completion."""
    pieces: list[Tensor] = []
    # Split, not sliced: the gradients of slices would each be a row of zeros with a piece in it, and be added up.
    lengths = [group.length for group in row.groups]
    queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
    for group, rectangle, q_1hTD, k_1hTD, v_1hTD in zip(row.groups, row.rectangles, queries, keys, values, strict=True):
        prompt = group.length if rectangle is None and group.tree is None else group.prompt
        mask = None if window is None or prompt <= window else row.mask(prompt, prompt, window)
        q_1hPD, k_1hPD, v_1hPD = (t[:, :, :prompt] for t in (q_1hTD, k_1hTD, v_1hTD))
        pieces.append(_attend(q_1hPD, k_1hPD, v_1hPD, scale, mask)[0])
        if group.tree is not None:
            q_1hnD = q_1hTD[:, :, prompt:]
            pieces.append(_attend(q_1hnD, k_1hTD, v_1hTD, scale, row.tree_mask(group, window))[0])
        if rectangle is None:
            continue
        count = len(group.completions)
        own_q_GhRD, own_k_GhRD, own_v_GhRD = (
            t[0, :, prompt:]
            .index_select(1, rectangle.gather)
            .reshape(t.shape[1], count, -1, t.shape[3])
            .transpose(0, 1)
            for t in (q_1hTD, k_1hTD, v_1hTD)
        )  # fmt: skip
        # No token of a completion sees more of the prompt than its first one.
        seen = prompt if window is None else min(prompt, window - 1)
        shared = (count, -1, -1, -1)
        all_keys, all_values = (
            torch.cat([of_prompt[:, :, prompt - seen :].expand(shared), own], dim=2)  # (G, h, seen + R, D)
            for of_prompt, own in ((k_1hPD, own_k_GhRD), (v_1hPD, own_v_GhRD))
        )
        mask = row.mask(rectangle.longest, seen + rectangle.longest, window)
        attended_GhRD = _attend(own_q_GhRD, all_keys, all_values, scale, mask)
        pieces.append(attended_GhRD.transpose(0, 1).flatten(1, 2).index_select(1, rectangle.scatter))
    return torch.cat(pieces, dim=1).transpose(0, 1)[None]


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """SDPA; without a mask causal."""
    causal = mask is None
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=True)
