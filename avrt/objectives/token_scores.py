"""Token log-probabilities without keeping a (tokens x vocabulary) tensor, and the completion-only loss of eq. 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class TokenScores:
    """What a policy thinks of N given tokens.

    Attributes:
        logprobs: (N,) float32 log-probability of each token.
        entropy: (N,) float32 entropy in nats of the distribution at its place, untempered; carries no gradient.
        correct: (N,) bool, whether it is the most likely token.
    """

    logprobs: Tensor
    entropy: Tensor
    correct: Tensor


def chunk_count(tokens: int, chunk_tokens: int = CHUNK_TOKENS) -> int:
    """How many chunks `score_tokens` should take for `tokens` tokens; at least one."""
    return max(1, -(-tokens // chunk_tokens))


def score_tokens(
    hidden_states: Tensor,
    targets: Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    chunks: int | None = None,
    keep_logits: bool = False,
) -> TokenScores:
    """Score target tokens in chunks; logits are recomputed in the backward pass, not kept.

    Args:
        hidden_states: (N, H) hidden states from which the targets are predicted.
        targets: (N,) token ids.
        project: The vocabulary projection, (n, H) -> (n, V). It is called exactly `chunks` times, because under ZeRO-3
            each call gathers weights and every rank has to make the same number.
        chunks: Number of chunks; by default so many that each has at most 1024 tokens.
        keep_logits: Keep them all the same, which is faster where they are small.
    """
    count = chunk_count(len(targets)) if chunks is None else chunks
    size = -(-len(targets) // count) if len(targets) else 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(count):
        piece = slice(i * size, (i + 1) * size)
        if torch.is_grad_enabled() and not keep_logits:
            parts.append(checkpoint(_score_chunk, hidden_states[piece], targets[piece], project, use_reentrant=False))
        else:
            parts.append(_score_chunk(hidden_states[piece], targets[piece], project))
    logprobs, entropy, correct = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenScores(logprobs, entropy, correct)


def _score_chunk(
    hidden_states: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    logits = project(hidden_states).float()
    normalizer = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normalizer
    with torch.no_grad():
        probabilities = (logits - normalizer[:, None]).exp()
        entropy = normalizer - (probabilities * logits).sum(-1)
        correct = logits.argmax(-1) == targets if len(targets) else targets.bool()
    return logprobs, entropy, correct


def completion_loss(logprobs: Tensor, weights: Tensor, total_tokens: Tensor | float) -> Tensor:
    """The fine-tuning loss, AVRT eq. 1: minus the sum of log p over completion tokens, per token of the whole step.

    Args:
        logprobs: (N,) of the completion tokens of one micro-batch.
        weights: (N,) 1, or 0 for tokens of padding samples.
        total_tokens: Number of completion tokens over all micro-batches and ranks of the step, so that neither changes
            what a token weighs.
    """
    return -(logprobs * weights).sum() / total_tokens
