"""Teacher forcing: the decoder run over prompts followed by given completions, packed or padded.

Shape letters: B prompts, G completions each, P and R tokens of a prompt and of a completion, T tokens of a row,
N tokens of all completions, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts, continued_positions
from avrt.models.packing import pack_groups


@dataclass(frozen=True)
class CompletionStates:
    """What is needed to score completions, N tokens in all.

    Attributes:
        hidden_states: (N, H) states from which the tokens are predicted.
        targets: (N,) the tokens.
        completion_index: (N,) the completion that each token belongs to.
    """

    hidden_states: Tensor
    targets: Tensor
    completion_index: Tensor


def completion_states(
    decoder: Decoder, prompts: EncodedPrompts, completions: Sequence[Tensor], *, packed: bool = True
) -> CompletionStates:
    """Run the decoder over prompts followed by their completions.

    Args:
        decoder: The decoder.
        prompts: B prompts.
        completions: B * G tensors (R_i,) of token ids, prompt by prompt; may be empty.
        packed: Each prompt once, with its completions behind it, in one row without padding. Off: one padded row per
            completion, each with its own copy of the prompt. The results are the same.
    """
    run = _packed_states if packed else _padded_states
    return run(decoder, prompts, completions, len(completions) // len(prompts))


def _packed_states(
    decoder: Decoder, prompts: EncodedPrompts, completions: Sequence[Tensor], group_size: int
) -> CompletionStates:
    """One row: prompt, its completions, the next prompt, its completions, ..."""
    device = prompts.token_ids[0].device
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    in_prompt: list[Tensor] = []
    predicted_at: list[Tensor] = []  # for each target where in the row its hidden state lies
    start = 0
    for b, (prompt_P, prompt_positions) in enumerate(zip(prompts.token_ids, prompts.positions, strict=True)):
        tokens.append(prompt_P)
        positions.append(prompt_positions)
        last, at = start + len(prompt_P) - 1, start + len(prompt_P)
        for completion_R in completions[b * group_size : (b + 1) * group_size]:
            # The last token of a completion predicts nothing that is scored.
            inputs = completion_R[:-1]
            tokens.append(inputs)
            positions.append(continued_positions(prompt_positions, len(inputs)))
            first = torch.full((min(1, len(completion_R)),), last, device=device)
            predicted_at.append(torch.cat([first, torch.arange(at, at + len(inputs), device=device)]))
            at += len(inputs)
        in_prompt.append(torch.arange(start, at, device=device) <= last)
        start = at
    layout = pack_groups(
        [len(p) for p in prompts.token_ids],
        [[max(0, len(r) - 1) for r in completions[b * group_size : (b + 1) * group_size]] for b in range(len(prompts))],
        device,
    )
    row_1T, in_prompt_1T = torch.cat(tokens)[None], torch.cat(in_prompt)[None]
    embeddings_1TH = decoder.embed(row_1T, in_prompt_1T, prompts.features)
    hidden_1TH = decoder.hidden_states(embeddings_1TH, torch.cat(positions, dim=1)[:, None], layout)
    return CompletionStates(
        hidden_1TH[0, torch.cat(predicted_at)], torch.cat(list(completions)), completion_index(completions)
    )


def _padded_states(
    decoder: Decoder, prompts: EncodedPrompts, completions: Sequence[Tensor], group_size: int
) -> CompletionStates:
    """One row per completion, padded on the right."""
    prompts = prompts.rows([b for b in range(len(prompts)) for _ in range(group_size)])
    device = prompts.token_ids[0].device
    inputs = [torch.cat([p, r[:-1]]) for p, r in zip(prompts.token_ids, completions, strict=True)]
    positions = [
        torch.cat([p, continued_positions(p, max(len(r) - 1, 0))], dim=1)
        for p, r in zip(prompts.positions, completions, strict=True)
    ]
    ids_BT, mask_BT = pad_rows(inputs)
    prompt_lengths = torch.tensor([len(p) for p in prompts.token_ids], device=device)
    in_prompt_BT = torch.arange(ids_BT.shape[1], device=device) < prompt_lengths[:, None]
    embeddings_BTH = decoder.embed(ids_BT, in_prompt_BT, prompts.features)
    hidden_BTH = decoder.hidden_states(embeddings_BTH, pad_positions(positions), mask_BT)
    index_N = completion_index(completions)
    lengths = torch.tensor([len(r) for r in completions], device=device)
    within_N = torch.arange(len(index_N), device=device) - (lengths.cumsum(0) - lengths)[index_N]
    return CompletionStates(
        hidden_BTH[index_N, prompt_lengths[index_N] - 1 + within_N], torch.cat(list(completions)), index_N
    )


def completion_index(completions: Sequence[Tensor]) -> Tensor:
    """(N,) the completion that each token belongs to."""
    device = completions[0].device
    lengths = torch.tensor([len(r) for r in completions], device=device)
    return torch.arange(len(completions), device=device).repeat_interleave(lengths)


def pad_rows(rows: Sequence[Tensor], *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad token ids to (B, T) with 0, and the mask (B, T) that is 1 at real tokens."""
    longest = max(len(row) for row in rows)
    pads = [(longest - len(row), 0) if left else (0, longest - len(row)) for row in rows]
    ids = torch.stack([pad(row, widths) for row, widths in zip(rows, pads, strict=True)])
    ones = [pad(torch.ones_like(row), widths) for row, widths in zip(rows, pads, strict=True)]
    return ids, torch.stack(ones)


def pad_positions(rows: Sequence[Tensor], *, left: bool = False) -> Tensor:
    """Pad positions (3, T_i) to (3, B, T) with 0."""
    longest = max(row.shape[1] for row in rows)
    pads = [(longest - row.shape[1], 0) if left else (0, longest - row.shape[1]) for row in rows]
    return torch.stack([pad(row, widths) for row, widths in zip(rows, pads, strict=True)], dim=1)
