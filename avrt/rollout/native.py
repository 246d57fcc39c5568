"""The native rollout engine: each prompt prefilled once, its answers decoded together, finished rows dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from avrt.models.scoring import Prompts, pad_positions, pad_rows
from avrt.policy.policy import Decoder
from avrt.rollout.dynamic import DynamicContext
from avrt.rollout.sampling import SamplingOptions, draw, uniforms
from avrt.rollout.static import StaticContext, StaticDecoder

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
    text: Decoder,
    prompts: Prompts,
    options: SamplingOptions,
    *,
    eos_token_id: int,
    seeds: list[int],
    group_size: int = 1,
    share_prefix: bool = True,
    decoder: StaticDecoder | None = None,
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
        share_prefix: Let all answers read one cache of their prompt, where the attention can; else each has a copy.
        decoder: Decodes in buffers of fixed shape instead of growing ones; the answers are the same.
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
    shared = share_prefix and text.supports_packing
    context: DynamicContext | StaticContext
    if decoder is not None and shared:
        context = decoder.start(text, cache, mask, group_size, options.max_new_tokens)
    else:
        context = DynamicContext(text, cache, mask, owners, shared=shared)
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
        if context.shrinks and 0 < left < COMPACT_BELOW * len(rows):
            keep = running.nonzero()[:, 0]
            context.keep(keep)
            rows, token = rows[keep], token[keep]
        position = (following[rows] + step)[None, :, None].expand(3, -1, 1)
        logits = context.advance(token[:, None], position)
    return [Completion(tokens[i, :n], logprobs[i, :n], bool(finished[i])) for i, n in enumerate(lengths.tolist())]
