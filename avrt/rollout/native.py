"""The native rollout engine: each prompt run once, its completions decoded together, finished rows dropped or replaced.

Shape letters: B prompts, G completions each, R rows that are decoded at once, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.rollout.branches import BranchContext
from avrt.rollout.completion import Completion
from avrt.rollout.dynamic import DynamicContext
from avrt.rollout.prefill import repeated
from avrt.rollout.rows import Rows
from avrt.rollout.sampling import SamplingOptions, uniforms
from avrt.rollout.static import StaticDecoder
from avrt.transfer import tensor_on, to_device

COMPACT_BELOW = 0.75
"""Finished rows are dropped when fewer than this share of the rows still runs."""
ASK_EVERY = {"cuda": 16}
"""After how many tokens the host asks which rows have finished. On a GPU it waits for the answer; a CPU has it."""


@dataclass(frozen=True)
class _Questions:
    """What is asked of the engine."""

    prompts: EncodedPrompts
    group_size: int
    uniforms: Tensor  # (B * G, longest completion), on the CPU

    def uniforms_of(self, prompts: Sequence[int], device: torch.device) -> Tensor:
        """The numbers of some prompts' completions."""
        rows = [b * self.group_size + g for b in prompts for g in range(self.group_size)]
        return to_device(self.uniforms[rows], device)

    def ends_of(self, prompts: Sequence[int], device: torch.device) -> Tensor:
        """Where the completions of some prompts go on."""
        return tensor_on([float(self.prompts.ends[b]) for b in prompts for _ in range(self.group_size)], device)


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
            answers whether any rank does, and decoding goes on until none does. All prompts are then decoded at once.

    Returns:
        B * G completions, prompt by prompt.

    Raises:
        ValueError: If there are not as many seeds as completions.
    """
    count = len(prompts) * group_size
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} completions")
    questions = _Questions(prompts, group_size, uniforms(seeds, sampling.max_new_tokens))
    shared = share_prefix and decoder.supports_packing
    if static is not None and shared:
        # Buffers outlive this call, and what is made in inference mode cannot be written to outside it.
        with torch.inference_mode(False), torch.no_grad():
            return _in_fixed_buffers(decoder, questions, sampling, eos_token_id, static, any_rank_running)
    return _in_growing_caches(decoder, questions, sampling, eos_token_id, shared, any_rank_running)


def _in_growing_caches(
    decoder: Decoder,
    questions: _Questions,
    sampling: SamplingOptions,
    eos_token_id: int,
    shared: bool,
    any_rank_running: Callable[[bool], bool] | None,
) -> list[Completion]:
    """Decode all prompts at once; rows leave when enough have finished. On a CPU equal rows are decoded once."""
    prompts, size = questions.prompts, questions.group_size
    device, everyone = prompts.device, range(len(prompts))
    context: DynamicContext | BranchContext
    if shared and device.type == "cpu":
        context = BranchContext(decoder, prompts, size)
    else:
        context = DynamicContext(decoder, prompts, size, shared=shared)
    rows = Rows(len(prompts) * size, sampling.max_new_tokens, sampling, eos_token_id, device)
    logits = repeated(context.first_logits, [size] * len(prompts))
    all_rows = torch.arange(len(rows), device=device)
    rows.begin(all_rows, logits, questions.uniforms_of(everyone, device), questions.ends_of(everyone, device))
    owners = list(range(len(rows)))  # which completion each row is
    done: dict[int, Completion] = {}
    interval = ASK_EVERY.get(device.type, 1)
    for step in range(sampling.max_new_tokens - 1):
        if step % interval == 0 and eos_token_id >= 0:
            finished = rows.finished.tolist()
            running = [row for row, over in enumerate(finished) if not over]
            if not (any_rank_running(bool(running)) if any_rank_running else running):
                break
            if 0 < len(running) < COMPACT_BELOW * len(rows):
                leaving = [row for row, over in enumerate(finished) if over]
                done |= zip([owners[row] for row in leaving], rows.completions(leaving), strict=True)
                context.keep(running)
                rows.keep(tensor_on(running, device))
                owners = [owners[row] for row in running]
        context.advance(rows)
    done |= zip(owners, rows.completions(range(len(rows))), strict=True)
    return [done[number] for number in sorted(done)]


def _in_fixed_buffers(
    decoder: Decoder,
    questions: _Questions,
    sampling: SamplingOptions,
    eos_token_id: int,
    static: StaticDecoder,
    any_rank_running: Callable[[bool], bool] | None,
) -> list[Completion]:
    """Decode some prompts at once; those that wait take the slots of those whose rows have all finished."""
    prompts, size = questions.prompts, questions.group_size
    device, together = prompts.device, any_rank_running is not None
    slots = len(prompts) if together else min(len(prompts), sampling.prompts_at_once or len(prompts))
    context = static.start(decoder, prompts, size, sampling, eos_token_id, slots)
    rows, waiting = context.rows, list(range(len(prompts)))
    owners: list[int | None] = [None] * slots  # which prompt is in each slot
    done: dict[int, list[Completion]] = {}

    def rows_of(which: Sequence[int]) -> list[int]:
        return [slot * size + g for slot in which for g in range(size)]

    def take_up(free: list[int]) -> None:
        """Let waiting prompts begin in free slots."""
        chosen, free = waiting[: len(free)], free[: len(waiting)]
        del waiting[: len(chosen)]
        logits = repeated(context.take(free, prompts.rows(chosen)), [size] * len(chosen))
        index = tensor_on(rows_of(free), device)
        rows.begin(index, logits, questions.uniforms_of(chosen, device), questions.ends_of(chosen, device))
        for slot, prompt in zip(free, chosen, strict=True):
            owners[slot] = prompt

    def hand_over(over: list[int]) -> None:
        """Keep what was drawn in slots that are done."""
        drawn = rows.completions(rows_of(over))
        for i, slot in enumerate(over):
            if (prompt := owners[slot]) is not None:
                done[prompt] = drawn[i * size : (i + 1) * size]
                owners[slot] = None

    take_up(list(range(slots)))
    interval = ASK_EVERY.get(device.type, 1)
    step = 0
    while True:
        # Nobody has to be asked where no token ends a completion, or when all have had their longest one.
        longest = step >= sampling.max_new_tokens - 1 and len(prompts) == slots
        if longest:
            break
        if step % interval == 0 and (eos_token_id >= 0 or len(prompts) > slots):
            finished = rows.finished.view(-1, size)[:slots].all(1).tolist()
            if not (any_rank_running(not all(finished)) if any_rank_running else waiting or not all(finished)):
                break
            over = [slot for slot, is_over in enumerate(finished) if is_over and owners[slot] is not None]
            if waiting and over:
                hand_over(over)
                take_up(over)
        context.advance(rows)
        step += 1
    hand_over([slot for slot in range(slots) if owners[slot] is not None])
    return [completion for prompt in range(len(prompts)) for completion in done[prompt]]
