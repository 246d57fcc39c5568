"""What decoding rows have seen so far, in caches that grow with every token and shrink when rows finish."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.prefix import SharedPrefix
from avrt.policy.policy import Decoder


class DynamicContext:
    """The prompts' cache, shared or copied per row, and the answers' own.

    Args:
        text: The policy.
        cache: The prompts' key-value cache.
        mask: (B, P) with 1 at real tokens.
        owners: (R,) prompt of each row.
        shared: Let all rows of a prompt read its one cache. Off: a copy for each row, as any attention can use it.
    """

    shrinks = True

    def __init__(self, text: Decoder, cache: DynamicCache, mask: Tensor, owners: Tensor, *, shared: bool) -> None:
        self._text = text
        self._owners = owners
        self._prompts: SharedPrefix | None = None
        if shared:
            keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
            self._all = SharedPrefix(keys, values, mask.bool())
            self._prompts = self._all.for_rows(owners)
            self._cache = DynamicCache()
        else:
            cache.batch_select_indices(owners)
            self._cache = cache
            self._mask = mask[owners]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but some."""
        self._cache.batch_select_indices(rows)
        self._owners = self._owners[rows]
        if self._prompts is not None:
            self._prompts = self._all.for_rows(self._owners)
        else:
            self._mask = self._mask[rows]

    def advance(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits (R, V) after one more token per row, which becomes part of the context.

        Args:
            tokens: (R, 1).
            positions: (3, R, 1).
        """
        embeddings = self._text.embed_completion(tokens)
        if self._prompts is not None:
            hidden = self._text.hidden(embeddings, positions, self._prompts, self._cache)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
            hidden = self._text.hidden(embeddings, positions, self._mask, self._cache)
        logits: Tensor = self._text.lm_head(hidden[:, -1])
        return logits
