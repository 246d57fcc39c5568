"""Decoding over a shared prompt: the key-value cache of a prompt is read by all its completions and copied for none.

By matrix products, on any device; `avrt.models.fused_prefix` is the same by a fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avrt.transfer import tensor_on


@dataclass(frozen=True)
class SharedPrefix:
    """Prompt caches of B prompts, and which of R completion rows reads which.

    Attributes:
        keys: For each cache (B, key-value heads, P, D).
        values: For each cache (B, key-value heads, P, D).
        mask: (B, P) bool, False at padding.
        slots: (B * S,) completion row in each of a prompt's S slots, padded with 0; None if each prompt is read by the
            same number of rows, prompt by prompt.
        places: (R,) slot of each row; None like `slots`.
        own: (R, t) bool, which of a completion's own tokens there are yet, where they lie in a buffer of fixed size;
            None if all are.
        cache_of_layer: For each layer the cache that it reads.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor
    cache_of_layer: tuple[int, ...]
    slots: Tensor | None = None
    places: Tensor | None = None
    own: Tensor | None = None

    def for_rows(self, prompts: Sequence[int]) -> SharedPrefix:
        """The same prompts read by other rows.

        Args:
            prompts: Prompt of each of the R completion rows, in any order; prompts that no row reads are dropped.
        """
        device = self.mask.device
        rows_of: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(prompt, []).append(row)
        readers = [rows_of[prompt] for prompt in sorted(rows_of)]
        kept = self
        if len(readers) < len(self.mask):
            used = tensor_on(sorted(rows_of), device)
            keys, values = ([t.index_select(0, used) for t in tensors] for tensors in (self.keys, self.values))
            kept = SharedPrefix(keys, values, self.mask.index_select(0, used), self.cache_of_layer)
        most = max(map(len, readers))
        slots: list[int] = []
        places = [0] * len(prompts)
        for own in readers:
            for row in own:
                places[row] = len(slots)
                slots.append(row)
            slots += [0] * (most - len(own))
        if slots == list(range(len(prompts))):
            return replace(kept, slots=None, places=None)
        return replace(kept, slots=tensor_on(slots, device), places=tensor_on(places, device))

    def by_prompt(self, rows: Tensor) -> Tensor:
        """Rows (R, ...) laid out as (B, S, ...); what lies at padding is not to be read."""
        laid = rows if self.slots is None else rows.index_select(0, self.slots)
        return laid.view(len(self.mask), -1, *rows.shape[1:])

    def by_row(self, slots: Tensor) -> Tensor:
        """The reverse: (B, S, ...) as rows (R, ...)."""
        flat = slots.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def behind(self, window: int, rows: int, own: int) -> tuple[Tensor, Tensor]:
        """What of its prompt and of its own tokens a row's newest token does not see any more.

        Args:
            window: How many tokens it sees, itself included.
            rows: R.
            own: t, the row's own tokens, or the room for them.

        Returns:
            (R, P) and (R, t) bool.
        """
        device = self.mask.device
        count = torch.full((rows,), own, device=device) if self.own is None else self.own.sum(1)
        slots = (rows if self.slots is None else len(self.slots)) // len(self.mask)
        lengths_R = self.by_row(self.mask.sum(1)[:, None].expand(-1, slots))
        first_R1 = (count - window)[:, None]  # the first that is seen, counted from the completion's beginning
        prompt_P, own_t = (torch.arange(size, device=device) for size in (self.mask.shape[1], own))
        return prompt_P < first_R1 + lengths_R[:, None], own_t < first_R1


def shared_prefix_attention(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompts: SharedPrefix,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Attention of one new token per row to its shared prompt and to its own tokens so far.

    Both parts share one softmax. All completions of a prompt are queries of one matrix product over that prompt's keys.
    In half precision products are summed and kept in float32 until the end, as fused kernels do it that score the
    same tokens later.

    Args:
        layer: Number of the decoder layer.
        query: (R, heads, 1, D).
        key: (R, key-value heads, t, D), the row's own, the new token's included.
        value: (R, key-value heads, t, D).
        prompts: The shared part.
        scale: Factor on the products.
        window: How many tokens a token sees, itself included; None for all before it.

    Returns:
        (R, 1, heads, D).
    """
    rows, heads, _, width = query.shape
    cache = prompts.cache_of_layer[layer]
    key_BgPD, value_BgPD = prompts.keys[cache], prompts.values[cache]
    count, groups, length, _ = key_BgPD.shape
    each = heads // groups  # query heads that share one key-value head
    exact = query.dtype == torch.float32
    query_RgeD = query.view(rows, groups, each, width)
    if exact:
        query_RgeD = query_RgeD * scale

    # S slots of each prompt hold the rows that read it.
    query_BgSeD = prompts.by_prompt(query_RgeD).transpose(1, 2)
    slots = query_BgSeD.shape[2]
    scores = _product(query_BgSeD.reshape(count, groups, slots * each, width), key_BgPD.transpose(-1, -2))
    scores = scores.masked_fill(~prompts.mask[:, None, None, :], -torch.inf)
    prompt_scores_RgeP = prompts.by_row(scores.view(count, groups, slots, each, length).transpose(1, 2))
    own_scores_Rget = _product(query_RgeD, key.transpose(-1, -2))
    if prompts.own is not None:
        own_scores_Rget = own_scores_Rget.masked_fill(~prompts.own[:, None, None, :], -torch.inf)
    if window is not None:
        behind_RP, behind_Rt = prompts.behind(window, rows, key.shape[2])
        prompt_scores_RgeP = prompt_scores_RgeP.masked_fill(behind_RP[:, None, None, :], -torch.inf)
        own_scores_Rget = own_scores_Rget.masked_fill(behind_Rt[:, None, None, :], -torch.inf)
    joined = torch.cat([prompt_scores_RgeP, own_scores_Rget], dim=-1)
    if not exact:
        joined = joined * scale
    weights = joined.softmax(-1, dtype=torch.float32).to(query.dtype)

    weights_BgSeP = prompts.by_prompt(weights[..., :length]).transpose(1, 2)
    from_prompt = _product(weights_BgSeP.reshape(count, groups, slots * each, length), value_BgPD)
    from_prompt_RgeD = prompts.by_row(from_prompt.view(count, groups, slots, each, width).transpose(1, 2))
    attended_RgeD = from_prompt_RgeD + _product(weights[..., length:], value)
    return attended_RgeD.to(query.dtype).reshape(rows, 1, heads, width)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The matrix product of (a, b, n, k) and (a, b, k, m), in float32 whatever the type of the two.

    A GPU's product sums in float32 anyway and is asked not to round; elsewhere a copy in float32 is made of both.
    """
    if one.dtype == torch.float32:
        return one @ other
    if not one.is_cuda:
        return one.float() @ other.float()
    product = torch.bmm(one.flatten(0, 1), other.flatten(0, 1), out_dtype=torch.float32)
    return product.view(*one.shape[:2], *product.shape[1:])
