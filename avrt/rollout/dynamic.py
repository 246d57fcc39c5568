"""What decoding rows have seen so far, in caches that grow with every token and shrink when rows finish."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.prefix import SharedPrefix
from avrt.rollout.prefill import prefill_packed, prefill_padded
from avrt.rollout.rows import Rows
from avrt.transfer import tensor_on


class DynamicContext:
    """The prompts' cache, shared or copied per row, and the completions' own.

    Args:
        decoder: The policy's decoder.
        prompts: B prompts.
        group_size: G, rows of each.
        shared: Let all rows of a prompt read its one cache. Off: a copy for each row, as any attention can use it.

    Attributes:
        first_logits: (B, V) of each prompt's first token.
    """

    def __init__(self, decoder: Decoder, prompts: EncodedPrompts, group_size: int, *, shared: bool) -> None:
        self._decoder = decoder
        self._owners = [b for b in range(len(prompts)) for _ in range(group_size)]
        self._prefix: SharedPrefix | None = None
        if shared:
            prefilled = prefill_packed(decoder, prompts)
            self.first_logits = prefilled.logits
            self._all = prefilled.shared()
            self._prefix = self._all.for_rows(self._owners)
            self._cache = DynamicCache()
        else:
            self._cache, mask_BP, self.first_logits = prefill_padded(decoder, prompts)
            rows = tensor_on(self._owners, prompts.device)
            self._cache.batch_select_indices(rows)
            self._mask = mask_BP.index_select(0, rows)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but some."""
        index = tensor_on(rows, self.first_logits.device)
        self._cache.batch_select_indices(index)
        self._owners = [self._owners[row] for row in rows]
        if self._prefix is not None:
            self._prefix = self._all.for_rows(self._owners)
        else:
            self._mask = self._mask.index_select(0, index)

    def advance(self, rows: Rows) -> None:
        """Read every row's newest token and draw its next one."""
        rows.draw(self._logits(rows.last[:, None], rows.positions))

    def _logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits (R, V) after one more token (R, 1) per row, at positions (3, R, 1)."""
        inputs = self._decoder.embed_completion(tokens)
        if self._prefix is not None:
            hidden = self._decoder.hidden_states(inputs, positions, self._prefix, self._cache)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
            hidden = self._decoder.hidden_states(inputs, positions, self._mask, self._cache)
        return self._decoder.logits(hidden[:, -1])
