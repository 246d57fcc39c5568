"""Decoding in buffers of fixed shape and address, so that one compiled step, or one CUDA graph, serves every token.

A step then costs one launch instead of hundreds, which is what bounds decoding of few rows on a GPU. Rows stay until
all have finished: leaving would change the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from avrt.models.prefix import SharedPrefix
from avrt.policy.policy import Decoder

PROMPT_MULTIPLE = 256


@dataclass
class _Buffers:
    """Room for B prompts of up to P tokens and for `steps` tokens of each of their R answers."""

    text: Decoder
    prompts: SharedPrefix
    answers: StaticCache
    rows: int
    steps: int

    def fit(self, text: Decoder, mask: Tensor, rows: int, steps: int) -> bool:
        """Whether another batch can use them."""
        count, length = self.prompts.mask.shape
        return (
            (count, self.rows, self.steps) == (len(mask), rows, steps)
            and length >= mask.shape[1]
            and self.text.language_model is text.language_model
        )


class StaticDecoder:
    """Holds the buffers and the step from one batch to the next; batches of the same B and G share them.

    Args:
        compiled: Compile the step, with CUDA graphs on a GPU. Off: the same buffers, step by step.
    """

    def __init__(self, *, compiled: bool) -> None:
        self._compiled = compiled
        self._step = _step
        self._buffers: _Buffers | None = None

    def start(self, text: Decoder, cache: DynamicCache, mask: Tensor, group_size: int, steps: int) -> StaticContext:
        """Take up a batch's prompts.

        Args:
            text: The policy; its attention must take layouts.
            cache: The prompts' key-value cache.
            mask: (B, P) with 1 at real tokens.
            group_size: G, answers per prompt.
            steps: Longest answer in tokens.
        """
        rows = len(mask) * group_size
        if self._buffers is None or not self._buffers.fit(text, mask, rows, steps):
            self._buffers = _allocate(text, cache, mask, rows, steps)
            if self._compiled:
                mode = "reduce-overhead" if mask.is_cuda else "default"
                self._step = torch.compile(_step, mode=mode, dynamic=False)
        buffers, length = self._buffers, mask.shape[1]
        own = buffers.prompts.own
        assert own is not None
        own.zero_()
        buffers.prompts.mask.zero_()
        buffers.prompts.mask[:, :length] = mask.bool()
        for layer, key, value in zip(cache.layers, buffers.prompts.keys, buffers.prompts.values, strict=True):
            key[:, :, :length], value[:, :, :length] = layer.keys, layer.values
        buffers.answers.reset()
        return StaticContext(self._step, buffers)


class StaticContext:
    """One batch in the buffers; see `DynamicContext`.

    Args:
        step: Runs one token of every row.
        buffers: Where the context lies.
    """

    shrinks = False

    def __init__(self, step: object, buffers: _Buffers) -> None:
        self._step = step
        self._buffers = buffers
        self._count = 0

    def keep(self, rows: Tensor) -> None:
        """Not possible here."""
        raise NotImplementedError("rows cannot leave buffers of fixed shape")

    def advance(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `DynamicContext.advance`."""
        prompts = self._buffers.prompts
        assert prompts.own is not None
        prompts.own[self._count] = True
        self._count += 1
        logits: Tensor = self._step(self._buffers.text, tokens, positions, prompts, self._buffers.answers)  # type: ignore[operator]
        return logits.clone()  # a CUDA graph writes its result to the same place each time


def _step(text: Decoder, tokens: Tensor, positions: Tensor, prompts: SharedPrefix, answers: StaticCache) -> Tensor:
    hidden = text.hidden(text.embed_completion(tokens), positions, prompts, answers)
    logits: Tensor = text.lm_head(hidden[:, -1])
    return logits


def _allocate(text: Decoder, cache: DynamicCache, mask: Tensor, rows: int, steps: int) -> _Buffers:
    count, length = mask.shape
    length = -(-length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE

    def room(like: Tensor) -> Tensor:
        return _fixed(like.new_zeros(count, like.shape[1], length, like.shape[3]))

    prompts = SharedPrefix(
        [room(layer.keys) for layer in cache.layers],
        [room(layer.values) for layer in cache.layers],
        _fixed(mask.new_zeros(count, length, dtype=torch.bool)),
    )
    own = _fixed(mask.new_zeros(steps, dtype=torch.bool))
    answers = StaticCache(config=text.language_model.config, max_cache_len=steps)
    like = cache.layers[0].keys
    answers.early_initialization(rows, like.shape[1], like.shape[3], like.dtype, like.device)
    return _Buffers(text, replace(prompts, own=own), answers, rows, steps)


def _fixed(tensor: Tensor) -> Tensor:
    torch._dynamo.mark_static_address(tensor)
    return tensor
