"""Decoding in buffers of fixed shape and address, so that one compiled step, or one CUDA graph, serves every token.

A step then costs one launch instead of hundreds, which is what bounds decoding of few rows on a GPU. Rows stay until
all have finished: leaving would change the shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from avrt.models.decoder import Decoder
from avrt.models.prefix import SharedPrefix
from avrt.models.transformers_internals import cache_tensors, fixed_cache, mark_fixed_address

PROMPT_MULTIPLE = 256
Step = Callable[[Decoder, Tensor, Tensor, SharedPrefix, StaticCache], Tensor]


@dataclass
class _Buffers:
    """Room for B prompts of up to P tokens and for `steps` tokens of each of their R completions."""

    decoder: Decoder
    prefix: SharedPrefix
    own_tokens: Tensor
    completions: StaticCache
    rows: int
    steps: int

    def fit(self, decoder: Decoder, mask: Tensor, rows: int, steps: int) -> bool:
        """Whether another batch can use them."""
        count, length = self.prefix.mask.shape
        return (
            (count, self.rows, self.steps) == (len(mask), rows, steps)
            and length >= mask.shape[1]
            and self.decoder.language_model is decoder.language_model
        )


class StaticDecoder:
    """Holds the buffers and the step from one batch to the next; batches of the same B and G share them.

    Args:
        compiled: Compile the step, with CUDA graphs on a GPU. Off: the same buffers, step by step.
    """

    def __init__(self, *, compiled: bool) -> None:
        self._compiled = compiled
        self._step: Step = _step
        self._buffers: _Buffers | None = None

    def start(self, decoder: Decoder, cache: DynamicCache, mask: Tensor, group_size: int, steps: int) -> StaticContext:
        """Take up a batch's prompts.

        Args:
            decoder: The policy's decoder, whose attention supports packing.
            cache: The prompts' key-value cache.
            mask: (B, P) with 1 at real tokens.
            group_size: G, completions per prompt.
            steps: Longest completion in tokens.
        """
        rows = len(mask) * group_size
        if self._buffers is None or not self._buffers.fit(decoder, mask, rows, steps):
            self._buffers = _allocate(decoder, cache, mask, rows, steps)
            if self._compiled:
                mode = "reduce-overhead" if mask.is_cuda else "default"
                self._step = torch.compile(_step, mode=mode, dynamic=False)
        buffers, length = self._buffers, mask.shape[1]
        buffers.own_tokens.zero_()
        buffers.prefix.mask.zero_()
        buffers.prefix.mask[:, :length] = mask.bool()
        keys, values = cache_tensors(cache)
        for room, tensor in zip([*buffers.prefix.keys, *buffers.prefix.values], [*keys, *values], strict=True):
            room[:, :, :length] = tensor
        buffers.completions.reset()
        return StaticContext(self._step, buffers)


class StaticContext:
    """One batch in the buffers, with the interface of `DynamicContext`.

    Args:
        step: Runs one token of every row.
        buffers: Where the context lies.
    """

    shrinks = False

    def __init__(self, step: Step, buffers: _Buffers) -> None:
        self._step = step
        self._buffers = buffers
        self._count = 0

    def keep(self, rows: Tensor) -> None:
        """Not possible here."""
        raise NotImplementedError("rows cannot leave buffers of fixed shape")

    def advance(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits (R, V) after one more token (R, 1) per row, at positions (3, R, 1)."""
        buffers = self._buffers
        buffers.own_tokens[self._count] = True
        self._count += 1
        logits = self._step(buffers.decoder, tokens, positions, buffers.prefix, buffers.completions)
        return logits.clone()  # a CUDA graph writes its result to the same place each time


def _step(
    decoder: Decoder, tokens: Tensor, positions: Tensor, prefix: SharedPrefix, completions: StaticCache
) -> Tensor:
    hidden = decoder.hidden_states(decoder.embed_completion(tokens), positions, prefix, completions)
    logits: Tensor = decoder.lm_head(hidden[:, -1])
    return logits


def _allocate(decoder: Decoder, cache: DynamicCache, mask: Tensor, rows: int, steps: int) -> _Buffers:
    """Buffers for a batch of this shape, with the prompts' length rounded up so that later batches fit too."""
    count, length = mask.shape
    length = -(-length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    keys, values = cache_tensors(cache)

    def room(like: Tensor) -> Tensor:
        return mark_fixed_address(like.new_zeros(count, like.shape[1], length, like.shape[3]))

    prefix = SharedPrefix(
        [room(key) for key in keys],
        [room(value) for value in values],
        mark_fixed_address(mask.new_zeros(count, length, dtype=torch.bool)),
    )
    own_tokens = mark_fixed_address(mask.new_zeros(steps, dtype=torch.bool))
    completions = fixed_cache(decoder.language_model.config, rows, steps, keys[0])
    return _Buffers(decoder, replace(prefix, own=own_tokens), own_tokens, completions, rows, steps)
