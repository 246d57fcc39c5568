"""What decoding rows have seen so far, in caches that grow with every token and shrink when rows finish."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.decoder import Decoder
from avrt.models.prefix import SharedPrefix
from avrt.models.transformers_internals import cache_tensors


class DynamicContext:
    """The prompts' cache, shared or copied per row, and the completions' own.

    Args:
        decoder: The policy's decoder.
        cache: The prompts' key-value cache.
        mask: (B, P) with 1 at real tokens.
        prompt_index: (R,) prompt of each row.
        shared: Let all rows of a prompt read its one cache. Off: a copy for each row, as any attention can use it.
    """

    shrinks = True

    def __init__(
        self, decoder: Decoder, cache: DynamicCache, mask: Tensor, prompt_index: Tensor, *, shared: bool
    ) -> None:
        self._decoder = decoder
        self._prompt_index = prompt_index
        self._prefix: SharedPrefix | None = None
        if shared:
            self._all = SharedPrefix(*cache_tensors(cache), mask.bool())
            self._prefix = self._all.for_rows(prompt_index)
            self._cache = DynamicCache()
        else:
            cache.batch_select_indices(prompt_index)
            self._cache = cache
            self._mask = mask[prompt_index]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but some."""
        self._cache.batch_select_indices(rows)
        self._prompt_index = self._prompt_index[rows]
        if self._prefix is not None:
            self._prefix = self._all.for_rows(self._prompt_index)
        else:
            self._mask = self._mask[rows]

    def advance(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits (R, V) after one more token per row, which becomes part of the context.

        Args:
            tokens: (R, 1).
            positions: (3, R, 1).
        """
        embeddings = self._decoder.embed_completion(tokens)
        if self._prefix is not None:
            hidden = self._decoder.hidden_states(embeddings, positions, self._prefix, self._cache)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
            hidden = self._decoder.hidden_states(embeddings, positions, self._mask, self._cache)
        logits: Tensor = self._decoder.lm_head(hidden[:, -1])
        return logits
