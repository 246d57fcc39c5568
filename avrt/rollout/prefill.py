"""The prompts' forward pass before decoding: their key-value caches, and the logits of each one's first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.packing import pack_groups
from avrt.models.prefix import SharedPrefix
from avrt.models.teacher_forcing import pad_positions, pad_rows
from avrt.models.transformers_internals import cache_tensors
from avrt.transfer import tensor_on, to_device


@dataclass(frozen=True)
class PackedPrefill:
    """B prompts one behind the other, N tokens in all.

    Attributes:
        keys: For each cache (1, key-value heads, N, D).
        values: For each cache (1, key-value heads, N, D).
        lengths: Tokens of each prompt, P_i.
        logits: (B, V) of each one's first token.
        cache_of_layer: For each layer the cache that it reads.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]
    logits: Tensor
    cache_of_layer: tuple[int, ...]

    def shared(self) -> SharedPrefix:
        """The caches as a rectangle of B prompts, padded on the right."""
        longest, device = max(self.lengths), self.logits.device
        starts = [0, *accumulate(self.lengths)]
        index = [[*range(a, b), *[a] * (longest - (b - a))] for a, b in pairwise(starts)]
        index_BP = tensor_on([place for row in index for place in row], device)
        real = torch.arange(longest, device="cpu") < torch.tensor(self.lengths, device="cpu")[:, None]

        def rectangle(packed: Tensor) -> Tensor:
            if len(self.lengths) == 1:
                return packed
            heads, width = packed.shape[1], packed.shape[3]
            picked = packed[0].index_select(1, index_BP).view(heads, -1, longest, width)
            return picked.transpose(0, 1).contiguous()

        keys, values = [*map(rectangle, self.keys)], [*map(rectangle, self.values)]
        return SharedPrefix(keys, values, to_device(real, device), self.cache_of_layer)


def prefill_packed(decoder: Decoder, prompts: EncodedPrompts) -> PackedPrefill:
    """Run the prompts in one row without padding; the decoder's attention has to support packing."""
    cache = DynamicCache()
    starts = [0, *accumulate(prompts.lengths)]
    inputs = decoder.embed(torch.cat(prompts.token_ids)[None], prompts, starts[:-1])
    positions = torch.cat(prompts.positions, dim=1)[:, None]
    layout = pack_groups(prompts.lengths, [()] * len(prompts), prompts.device)
    ends = [end - 1 for end in starts[1:]]
    hidden_1NH = decoder.hidden_states(inputs, positions, layout, cache, wanted=ends)
    last = tensor_on(ends, prompts.device)
    logits = decoder.logits(hidden_1NH[0].index_select(0, last))
    return PackedPrefill(*cache_tensors(cache), prompts.lengths, logits, decoder.cache_of_layer)


def prefill_padded(decoder: Decoder, prompts: EncodedPrompts) -> tuple[DynamicCache, Tensor, Tensor]:
    """Run the prompts as rows padded on the left, as any attention can.

    Returns:
        The cache of B prompts, their mask (B, P) with 1 at real tokens, and logits (B, V) of each one's first token.
    """
    cache = DynamicCache()
    ids_BP, mask_BP = pad_rows(prompts.token_ids, left=True)
    width = ids_BP.shape[1]
    starts = [row * width + width - length for row, length in enumerate(prompts.lengths)]
    inputs = decoder.embed(ids_BP, prompts, starts)
    hidden_BPH = decoder.hidden_states(inputs, pad_positions(prompts.positions, left=True), mask_BP, cache)
    return cache, mask_BP, decoder.logits(hidden_BPH[:, -1])


def repeated(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Logits (B, V) once for each of a prompt's completions, prompt by prompt."""
    return logits.index_select(0, tensor_on([b for b, n in enumerate(counts) for _ in range(n)], logits.device))
