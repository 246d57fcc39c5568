"""Hidden states of response tokens: prompt and response in one padded row, only response positions kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.data.positions import response_positions
from avrt.models.features import ClipFeatures
from avrt.models.student import TextModel


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
    """What is needed to score the response tokens of B rows, N tokens in all.

    Attributes:
        hidden: (N, H) states from which the tokens are predicted.
        targets: (N,) the tokens.
        rows: (N,) the row of each token.
    """

    hidden: Tensor
    targets: Tensor
    rows: Tensor


def response_states(text: TextModel, prompts: Prompts, responses: Sequence[Tensor]) -> ResponseStates:
    """Run the policy over prompts followed by responses.

    Args:
        text: The policy.
        prompts: B prompts.
        responses: B tensors (R_i,) of token ids; may be empty.
    """
    device = prompts.token_ids[0].device
    # The last token of a response predicts nothing that is scored.
    inputs = [torch.cat([p, r[:-1]]) for p, r in zip(prompts.token_ids, responses, strict=True)]
    places = [
        torch.cat([p, response_positions(p, max(len(r) - 1, 0))], dim=1)
        for p, r in zip(prompts.positions, responses, strict=True)
    ]
    token_ids, mask = pad_rows(inputs)
    positions = pad_positions(places)
    prompt_lengths = torch.tensor([len(p) for p in prompts.token_ids], device=device)
    in_prompt = torch.arange(token_ids.shape[1], device=device) < prompt_lengths[:, None]
    hidden = text.hidden(text.embed(token_ids, in_prompt, prompts.features), positions, mask)
    lengths = torch.tensor([len(r) for r in responses], device=device)
    rows = torch.arange(len(responses), device=device).repeat_interleave(lengths)
    within = torch.arange(len(rows), device=device) - (lengths.cumsum(0) - lengths)[rows]
    return ResponseStates(hidden[rows, prompt_lengths[rows] - 1 + within], torch.cat(list(responses)), rows)


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
