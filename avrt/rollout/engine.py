"""The native rollout engine: each prompt prefilled once, its answers decoded together, finished rows dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.prefix import SharedPrompts
from avrt.models.scoring import Prompts, pad_positions, pad_rows
from avrt.models.student import TextModel
from avrt.rollout.sampling import SamplingOptions, draw, uniforms

COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        token_ids: (R,) tokens, with the end token if it came.
        logprobs: (R,) float32 log-probability of each under the distribution it was drawn from.
        finished: Whether it ended by itself rather than being cut off.
    """

    token_ids: Tensor
    logprobs: Tensor
    finished: bool


@torch.no_grad()
def generate(
    text: TextModel,
    prompts: Prompts,
    options: SamplingOptions,
    *,
    eos_token_id: int,
    seeds: list[int],
    group_size: int = 1,
    share_prompts: bool = True,
    any_rank_running: Callable[[bool], bool] | None = None,
) -> list[Completion]:
    """Sample `group_size` answers to each prompt.

    Args:
        text: The policy.
        prompts: B encoded prompts.
        options: How to draw.
        eos_token_id: The token that ends an answer.
        seeds: One per answer (B * group_size), prompt by prompt; an answer depends on its prompt, policy and seed only.
        group_size: G, answers per prompt.
        share_prompts: Let all answers read one cache of their prompt, where the attention can; else each has a copy.
        any_rank_running: Under ZeRO-3 every forward pass is a collective: told whether this rank still needs steps, it
            answers whether any rank does, and decoding goes on until none does.

    Returns:
        B * G completions, prompt by prompt.
    """
    count, device = len(prompts) * group_size, prompts.token_ids[0].device
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} answers")
    numbers = uniforms(seeds, options.max_new_tokens, device)
    owners = torch.arange(len(prompts), device=device).repeat_interleave(group_size)

    cache = DynamicCache()
    ids, mask = pad_rows(prompts.token_ids, left=True)
    embeddings = text.embed(ids, mask.bool(), prompts.features)
    hidden = text.hidden(embeddings, pad_positions(prompts.positions, left=True), mask, cache)
    logits = text.lm_head(hidden[:, -1])[owners]
    context = _Context(text, cache, mask, owners, shared=share_prompts and text.takes_layouts)
    following = torch.stack([p.max() + 1 for p in prompts.positions])[owners]

    tokens = torch.full((count, options.max_new_tokens), eos_token_id, device=device)
    logprobs = torch.zeros(count, options.max_new_tokens, device=device)
    lengths = torch.zeros(count, dtype=torch.long, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    rows = torch.arange(count, device=device)  # which answer each row of the context belongs to
    for step in range(options.max_new_tokens):
        token, logprob = draw(logits, options, numbers[rows, step])
        running = ~finished[rows]
        live = rows[running]
        tokens[live, step], logprobs[live, step] = token[running], logprob[running]
        lengths[live] = step + 1
        finished[live] = token[running] == eos_token_id
        if step + 1 == options.max_new_tokens:
            break
        running = ~finished[rows]
        left = int(running.sum())
        if not (any_rank_running(left > 0) if any_rank_running else left > 0):
            break
        if 0 < left < COMPACT_BELOW * len(rows):
            keep = running.nonzero()[:, 0]
            context.keep(keep)
            rows, token = rows[keep], token[keep]
        position = (following[rows] + step)[None, :, None].expand(3, -1, 1)
        logits = text.lm_head(context.advance(text.embed_answer(token[:, None]), position)[:, -1])
    return [Completion(tokens[i, :n], logprobs[i, :n], bool(finished[i])) for i, n in enumerate(lengths.tolist())]


class _Context:
    """What the rows have seen so far: the prompts' cache, shared or copied per row, and the answers' own.

    Args:
        text: The policy.
        cache: The prompts' key-value cache.
        mask: (B, P) with 1 at real tokens.
        owners: (R,) prompt of each row.
        shared: Let all rows of a prompt read its one cache. Off: a copy for each row, as any attention can use it.
    """

    def __init__(self, text: TextModel, cache: DynamicCache, mask: Tensor, owners: Tensor, *, shared: bool) -> None:
        self._text = text
        self._owners = owners
        self._prompts: SharedPrompts | None = None
        if shared:
            keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
            nothing = owners.new_zeros(0)
            self._all = SharedPrompts(keys, values, mask.bool(), nothing, nothing)
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

    def advance(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (R, 1, H) of one more token per row, which becomes part of the context."""
        if self._prompts is not None:
            return self._text.hidden(embeddings, positions, self._prompts, self._cache)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        return self._text.hidden(embeddings, positions, self._mask, self._cache)
