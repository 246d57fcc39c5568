"""Drawing the next token: one uniform number per completion and step, so that a draw depends on its own seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingOptions:
    """How completions are drawn.

    The defaults draw from the policy itself, which is what the policy loss assumes.

    Attributes:
        max_new_tokens: Longest completion, its end token included; longer ones are cut off.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keep only the k most likely tokens; 0 keeps all.
        top_p: Keep the most likely tokens up to this probability mass.
        decoding: `dynamic` caches, which grow and which finished rows leave; `static` buffers of fixed shape, whose
            step is a CUDA graph on a GPU; or these with a `compiled` step. The completions are the same. The latter two
            need a shared prefix. `auto` takes what is fastest here: fixed buffers on a GPU, growing ones on a CPU. A
            student with experts has fixed ones in bfloat16 on H100, H200 and B200 alone: its step cannot be recorded
            elsewhere.
        prompts_at_once: How many prompts are decoded at once; the others of a batch wait, and take the rows of finished
            ones, so that one long completion does not hold up a batch. 0 for all. Needs fixed buffers, which `auto`
            then takes where it can.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    decoding: Literal["auto", "dynamic", "static", "compiled"] = "auto"
    prompts_at_once: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.max_new_tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"out of range: {self}")
        if self.prompts_at_once < 0 or (self.prompts_at_once and self.decoding == "dynamic"):
            raise ValueError(f"prompts_at_once needs decoding: static, compiled or auto, and is at least 0: {self}")

    def limited(self, max_new_tokens: int) -> SamplingOptions:
        """The same, with completions no longer than this."""
        return replace(self, max_new_tokens=min(self.max_new_tokens, max_new_tokens))

    @property
    def exact(self) -> bool:
        """Whether completions come from the policy's own distribution."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1


def decoding_for(
    sampling: SamplingOptions, *, on_gpu: bool, scattered: bool, gathered: bool, recordable: bool = True
) -> str:
    """What `auto` stands for; other ways are taken as they are.

    Args:
        sampling: How completions are drawn.
        on_gpu: Whether the policy is on a GPU.
        scattered: Whether ranks hold parts of the weights (ZeRO-3).
        gathered: Whether these are whole while it generates. Their addresses change, so a compiled step would be
            compiled anew each time; a recorded one is soon recorded.
        recordable: Whether fixed buffers can be used at all, which on a GPU means to record a step.
    """
    if sampling.decoding != "auto":
        return sampling.decoding
    if not recordable or (scattered and not gathered):
        return "dynamic"
    if on_gpu:
        return "static" if scattered else "compiled"
    return "static" if sampling.prompts_at_once else "dynamic"


def completion_seed(*parts: object) -> int:
    """A 63-bit seed from anything with a stable text, e.g. (run seed, step, sample id, completion number)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def completion_seeds(sample_ids: Iterable[str], group_size: int, *parts: int) -> list[int]:
    """Seeds of each sample's G completions, sample by sample; they depend on `parts`, sample and number alone."""
    return [completion_seed(*parts, sample_id, g) for sample_id in sample_ids for g in range(group_size)]


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Numbers (rows, steps) in [0, 1), each row from its own seed; on the CPU, so that the device does not matter."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.rand(steps, generator=g, dtype=torch.float64, device="cpu") for g in generators])


def draw(logits: Tensor, options: SamplingOptions, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: (R, V).
        options: Temperature and truncation.
        uniform: (R,) in [0, 1).

    Returns:
        Tokens (R,) and their log-probability (R,) float32 under the distribution they were drawn from. A greedy token's
        is the policy's own.
    """
    logits = logits.float()
    if options.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]
    logprobs = torch.log_softmax(truncate(logits / options.temperature, options), -1)
    cumulative = logprobs.exp().double().cumsum(-1)
    # Scaling by the last entry instead of 1 keeps rounding from choosing a token of probability 0.
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def truncate(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (R, V) with -inf at tokens that top-k or top-p leave out; the most likely token always stays."""
    if options.top_k and options.top_k < logits.shape[-1]:
        smallest = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if options.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= options.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits
