"""The native rollout engine: each prompt prefilled once, its completions decoded together, finished rows dropped.

Shape letters: B prompts, G completions each, R = B * G rows (fewer once some have finished), P tokens of the longest
prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.teacher_forcing import pad_positions, pad_rows
from avrt.rollout.completion import Completion
from avrt.rollout.dynamic import DynamicContext
from avrt.rollout.sampling import SamplingOptions, draw, uniforms
from avrt.rollout.static import StaticContext, StaticDecoder

COMPACT_BELOW = 0.75
"""Finished rows are dropped when fewer than this share of the rows still runs."""


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: EncodedPrompts,
    sampling: SamplingOptions,
    *,
    eos_token_id: int,
    seeds: Sequence[int],
    group_size: int = 1,
    share_prefix: bool = True,
    static: StaticDecoder | None = None,
    any_rank_running: Callable[[bool], bool] | None = None,
) -> list[Completion]:
    """Sample `group_size` completions of each prompt.

    Args:
        decoder: The policy's decoder.
        prompts: B encoded prompts.
        sampling: How to draw.
        eos_token_id: The token that ends a completion; -1 for none.
        seeds: One per completion (B * G), prompt by prompt; a completion depends on its prompt, policy and seed only.
        group_size: G.
        share_prefix: Let all completions read one cache of their prompt, where the attention supports it; else each
            has a copy.
        static: Decodes in buffers of fixed shape instead of growing ones; the completions are the same.
        any_rank_running: Under ZeRO-3 every forward pass is a collective: told whether this rank still needs steps, it
            answers whether any rank does, and decoding goes on until none does.

    Returns:
        B * G completions, prompt by prompt.

    Raises:
        ValueError: If there are not as many seeds as completions.
    """
    count, device = len(prompts) * group_size, prompts.token_ids[0].device
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} completions")
    uniforms_RT = uniforms(seeds, sampling.max_new_tokens, device)
    prompt_index = torch.arange(len(prompts), device=device).repeat_interleave(group_size)

    cache = DynamicCache()
    ids_BP, mask_BP = pad_rows(prompts.token_ids, left=True)
    embeddings = decoder.embed(ids_BP, mask_BP.bool(), prompts.features)
    hidden_BPH = decoder.hidden_states(embeddings, pad_positions(prompts.positions, left=True), mask_BP, cache)
    logits_RV = decoder.lm_head(hidden_BPH[:, -1])[prompt_index]
    shared = share_prefix and decoder.supports_packing
    context: DynamicContext | StaticContext
    if static is not None and shared:
        context = static.start(decoder, cache, mask_BP, group_size, sampling.max_new_tokens)
    else:
        context = DynamicContext(decoder, cache, mask_BP, prompt_index, shared=shared)
    next_position = torch.stack([p.max() + 1 for p in prompts.positions])[prompt_index]

    tokens = torch.full((count, sampling.max_new_tokens), eos_token_id, device=device)
    logprobs = torch.zeros(count, sampling.max_new_tokens, device=device)
    lengths = torch.zeros(count, dtype=torch.long, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    rows = torch.arange(count, device=device)  # which completion each row of the context belongs to
    for step in range(sampling.max_new_tokens):
        token, logprob = draw(logits_RV, sampling, uniforms_RT[rows, step])
        running = ~finished[rows]
        live = rows[running]
        tokens[live, step], logprobs[live, step] = token[running], logprob[running]
        lengths[live] = step + 1
        finished[live] = token[running] == eos_token_id
        if step + 1 == sampling.max_new_tokens:
            break
        running = ~finished[rows]
        still_running = int(running.sum())
        if not (any_rank_running(still_running > 0) if any_rank_running else still_running > 0):
            break
        if context.shrinks and 0 < still_running < COMPACT_BELOW * len(rows):
            keep = running.nonzero()[:, 0]
            context.keep(keep)
            rows, token = rows[keep], token[keep]
        positions = (next_position[rows] + step)[None, :, None].expand(3, -1, 1)
        logits_RV = context.advance(token[:, None], positions)
    return [Completion(tokens[i, :n], logprobs[i, :n], bool(finished[i])) for i, n in enumerate(lengths.tolist())]
