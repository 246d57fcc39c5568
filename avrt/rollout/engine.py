"""The native rollout engine: each prompt prefilled once, its answers decoded together, finished rows dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

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
        any_rank_running: Under ZeRO-3 every forward pass is a collective: told whether this rank still needs steps, it
            answers whether any rank does, and decoding goes on until none does.

    Returns:
        B * G completions, prompt by prompt.
    """
    count, device = len(prompts) * group_size, prompts.token_ids[0].device
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} answers")
    numbers = uniforms(seeds, options.max_new_tokens, device)

    cache = DynamicCache()
    ids, mask = pad_rows(prompts.token_ids, left=True)
    embeddings = text.embed(ids, mask.bool(), prompts.features)
    hidden = text.hidden(embeddings, pad_positions(prompts.positions, left=True), mask, cache)
    logits = text.lm_head(hidden[:, -1]).repeat_interleave(group_size, 0)
    cache.batch_repeat_interleave(group_size)
    mask = mask.repeat_interleave(group_size, 0)
    following = torch.stack([p.max() + 1 for p in prompts.positions]).repeat_interleave(group_size)

    tokens = torch.full((count, options.max_new_tokens), eos_token_id, device=device)
    logprobs = torch.zeros(count, options.max_new_tokens, device=device)
    lengths = torch.zeros(count, dtype=torch.long, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    rows = torch.arange(count, device=device)  # which answer each row of the cache belongs to
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
            cache.batch_select_indices(keep)
            rows, mask, token = rows[keep], mask[keep], token[keep]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = (following[rows] + step)[None, :, None].expand(3, -1, 1)
        embeddings = text.embed_answer(token[:, None])
        logits = text.lm_head(text.hidden(embeddings, position, mask, cache)[:, -1])
    return [Completion(tokens[i, :n], logprobs[i, :n], bool(finished[i])) for i, n in enumerate(lengths.tolist())]
