"""Hidden states of response tokens: policies run over prompts with their responses, only response positions kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.models.packing import pack_groups
from avrt.models.qwen2_5_omni.positions import response_positions
from avrt.models.qwen2_5_omni.towers import ClipFeatures
from avrt.policy.policy import Decoder


@dataclass(frozen=True)
class Prompts:
    """B encoded prompts.

    Attributes:
        token_ids: B tensors (P_i,).
        positions: B tensors (3, P_i).
        features: Their clips' features.
    """

    token_ids: list[Tensor]
    positions: list[Tensor]
    features: ClipFeatures

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.token_ids)

    def rows(self, indices: Sequence[int]) -> Prompts:
        """Some of the prompts, in that order; one may occur several times."""
        return Prompts(
            [self.token_ids[i] for i in indices], [self.positions[i] for i in indices], self.features.rows(indices)
        )


@dataclass(frozen=True)
class ResponseStates:
    """What is needed to score responses, N tokens in all.

    Attributes:
        hidden: (N, H) states from which the tokens are predicted.
        targets: (N,) the tokens.
        rows: (N,) the response that each token belongs to.
    """

    hidden: Tensor
    targets: Tensor
    rows: Tensor


def response_states(
    text: Decoder, prompts: Prompts, responses: Sequence[Tensor], *, packed: bool = True
) -> ResponseStates:
    """Run the policy over prompts followed by responses.

    Args:
        text: The policy.
        prompts: B prompts.
        responses: B * G tensors (R_i,) of token ids, prompt by prompt; may be empty.
        packed: Each prompt once, with its responses behind it, in one row without padding. Off: one padded row per
            response, each with its own copy of the prompt. The results are the same.
    """
    run = _packed_states if packed else _padded_states
    return run(text, prompts, responses, len(responses) // len(prompts))


def _packed_states(text: Decoder, prompts: Prompts, responses: Sequence[Tensor], size: int) -> ResponseStates:
    device = prompts.token_ids[0].device
    tokens: list[Tensor] = []
    places: list[Tensor] = []
    in_prompt: list[Tensor] = []
    predicted_at: list[Tensor] = []
    start = 0
    for b, (prompt, positions) in enumerate(zip(prompts.token_ids, prompts.positions, strict=True)):
        tokens.append(prompt)
        places.append(positions)
        last, at = start + len(prompt) - 1, start + len(prompt)
        for response in responses[b * size : (b + 1) * size]:
            # The last token of a response predicts nothing that is scored.
            inputs = response[:-1]
            tokens.append(inputs)
            places.append(response_positions(positions, len(inputs)))
            first = torch.full((min(1, len(response)),), last, device=device)
            predicted_at.append(torch.cat([first, torch.arange(at, at + len(inputs), device=device)]))
            at += len(inputs)
        in_prompt.append(torch.arange(start, at, device=device) <= last)
        start = at
    layout = pack_groups(
        [len(p) for p in prompts.token_ids],
        [[max(0, len(r) - 1) for r in responses[b * size : (b + 1) * size]] for b in range(len(prompts))],
        device,
    )
    row, shown = torch.cat(tokens)[None], torch.cat(in_prompt)[None]
    hidden = text.hidden(text.embed(row, shown, prompts.features), torch.cat(places, dim=1)[:, None], layout)
    return ResponseStates(hidden[0, torch.cat(predicted_at)], torch.cat(list(responses)), _owners(responses))


def _padded_states(text: Decoder, prompts: Prompts, responses: Sequence[Tensor], size: int) -> ResponseStates:
    prompts = prompts.rows([b for b in range(len(prompts)) for _ in range(size)])
    device = prompts.token_ids[0].device
    inputs = [torch.cat([p, r[:-1]]) for p, r in zip(prompts.token_ids, responses, strict=True)]
    places = [
        torch.cat([p, response_positions(p, max(len(r) - 1, 0))], dim=1)
        for p, r in zip(prompts.positions, responses, strict=True)
    ]
    token_ids, mask = pad_rows(inputs)
    prompt_lengths = torch.tensor([len(p) for p in prompts.token_ids], device=device)
    in_prompt = torch.arange(token_ids.shape[1], device=device) < prompt_lengths[:, None]
    hidden = text.hidden(text.embed(token_ids, in_prompt, prompts.features), pad_positions(places), mask)
    rows = _owners(responses)
    lengths = torch.tensor([len(r) for r in responses], device=device)
    within = torch.arange(len(rows), device=device) - (lengths.cumsum(0) - lengths)[rows]
    return ResponseStates(hidden[rows, prompt_lengths[rows] - 1 + within], torch.cat(list(responses)), rows)


def _owners(responses: Sequence[Tensor]) -> Tensor:
    """(N,) the response that each token belongs to."""
    device = responses[0].device
    lengths = torch.tensor([len(r) for r in responses], device=device)
    return torch.arange(len(responses), device=device).repeat_interleave(lengths)


def pad_rows(rows: Sequence[Tensor], *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad token ids to (B, T) with 0, and the mask (B, T) that is 1 at real tokens."""
    longest = max(len(row) for row in rows)
    pads = [(longest - len(row), 0) if left else (0, longest - len(row)) for row in rows]
    ids = torch.stack([torch.nn.functional.pad(row, pad) for row, pad in zip(rows, pads, strict=True)])
    ones = [torch.nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)]
    return ids, torch.stack(ones)


def pad_positions(rows: Sequence[Tensor], *, left: bool = False) -> Tensor:
    """Pad positions (3, T_i) to (3, B, T) with 0."""
    longest = max(row.shape[1] for row in rows)
    pads = [(longest - row.shape[1], 0) if left else (0, longest - row.shape[1]) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, pad) for row, pad in zip(rows, pads, strict=True)], dim=1)
