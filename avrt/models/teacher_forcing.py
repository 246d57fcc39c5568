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

from avrt.models.attention import Layout
from avrt.models.decoder import Decoder, TokenInputs
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.packing import pack_groups
from avrt.models.prefix_tree import PrefixTree, prefix_tree
from avrt.transfer import tensor_on


@dataclass(frozen=True)
class CompletionStates:
    """What is needed to score completions, N tokens in all.

    Attributes:
        hidden_states: (N, H) states from which the tokens are predicted.
        targets: (N,) the tokens.
        completion_index: (N,) the completion that each token belongs to.
        routing: What the routers made of all tokens that were read, where that was asked for.
        distinct: (M,) the tokens whose scores differ, and (N,) for each token which of these it is like; None where all
            may differ.
    """

    hidden_states: Tensor
    targets: Tensor
    completion_index: Tensor
    routing: Routing | None = None
    distinct: tuple[Tensor, Tensor] | None = None

    def to_score(self) -> tuple[Tensor, Tensor]:
        """Hidden states (M, H) and targets (M,) whose scores differ."""
        if self.distinct is None:
            return self.hidden_states, self.targets
        first, _ = self.distinct
        return self.hidden_states.index_select(0, first), self.targets.index_select(0, first)

    def of_each(self, scores: Tensor) -> Tensor:
        """The score of each of the N tokens, from those (M,) that differ."""
        return scores if self.distinct is None else scores.index_select(0, self.distinct[1])


@dataclass(frozen=True)
class Routing:
    """What the routers of a mixture of experts made of T tokens, padding among them.

    Attributes:
        logits: Of each layer that has experts E (T, E).
        weights: (T,) how often each token counts: as often as a padded row per completion would have it.
    """

    logits: tuple[Tensor, ...]
    weights: Tensor


def completion_states(
    decoder: Decoder,
    prompts: EncodedPrompts,
    completions: Sequence[Tensor],
    *,
    packed: bool = True,
    counted: Sequence[bool] | None = None,
) -> CompletionStates:
    """Run the decoder over prompts followed by their completions.

    Args:
        decoder: The decoder.
        prompts: B prompts.
        completions: B * G tensors (R_i,) of token ids, prompt by prompt; may be empty.
        packed: Each prompt once, with its completions behind it, in one row without padding. Off: one padded row per
            completion, each with its own copy of the prompt. The results are the same.
        counted: Which completions count in the `routing`; None to do without.
    """
    run = _packed_states if packed else _padded_states
    return run(decoder, prompts, completions, len(completions) // len(prompts), counted)


def _packed_states(
    decoder: Decoder, prompts: EncodedPrompts, completions: Sequence[Tensor], group_size: int,
    counted: Sequence[bool] | None,
) -> CompletionStates:  # fmt: skip
    """One row: prompt, its completions, the next prompt, its completions, ..."""
    tokens: list[Tensor] = []
    positions: list[Tensor] = []
    predicted_at: list[int] = []  # for each target where in the row its hidden state lies
    starts: list[int] = []
    inputs: list[list[int]] = []
    trees: list[PrefixTree | None] = []
    weights: list[float] = []
    firsts: list[int] = []  # for each target the first one that is scored alike
    at = 0
    for b, (prompt_P, prompt_positions) in enumerate(zip(prompts.token_ids, prompts.positions, strict=True)):
        group = completions[b * group_size : (b + 1) * group_size]
        own = [] if counted is None else counted[b * group_size : (b + 1) * group_size]
        starts.append(at)
        inputs.append([])
        tokens.append(prompt_P)
        positions.append(prompt_positions)
        weights += [float(sum(own))] * len(prompt_P)
        at += len(prompt_P)
        last = at - 1
        trees.append(prefix_tree([c.tolist() for c in group]) if group_size > 1 and decoder.reads_trees else None)
        if (tree := trees[-1]) is not None:
            tokens.append(tensor_on(tree.tokens, prompts.device))
            positions.append((tensor_on(tree.depths, prompts.device) + prompts.ends[b]).expand(3, -1))
            firsts += [len(predicted_at) + first for first in tree.firsts]
            predicted_at += [last if place < 0 else at + place for place in tree.readers]
            inputs[b].append(len(tree.tokens))
            weights += [float(sum(own[number] for number in numbers)) for numbers in tree.counts if own]
            at += len(tree.tokens)
            continue
        for number, completion_R in enumerate(group):
            # The last token of a completion predicts nothing that is scored.
            length = max(0, len(completion_R) - 1)
            tokens.append(completion_R[:length])
            positions.append(continued_positions(prompts.ends[b], length, prompts.device))
            predicted_at += [last, *range(at, at + length)] if len(completion_R) else []
            firsts += range(len(firsts), len(predicted_at))
            inputs[b].append(length)
            weights += [float(own[number])] * length if own else []
            at += length
    token_inputs = decoder.embed(torch.cat(tokens)[None], prompts, starts)
    layout = pack_groups(prompts.lengths, inputs, prompts.device, trees)
    counts = None if counted is None else tensor_on(weights, prompts.device)
    hidden_1TH, routing = _run(
        decoder, token_inputs, torch.cat(positions, dim=1)[:, None], layout, counts, predicted_at
    )
    return CompletionStates(
        hidden_1TH[0].index_select(0, tensor_on(predicted_at, prompts.device)),
        torch.cat(list(completions)),
        completion_index([len(c) for c in completions], prompts.device),
        routing,
        _distinct(firsts, prompts.device) if any(tree is not None for tree in trees) else None,
    )


def _distinct(firsts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The tokens that are the first of their kind, and for each token which of these it is like."""
    numbers = {first: number for number, first in enumerate(dict.fromkeys(firsts))}
    return tensor_on(list(numbers), device), tensor_on([numbers[first] for first in firsts], device)


def _padded_states(
    decoder: Decoder, prompts: EncodedPrompts, completions: Sequence[Tensor], group_size: int,
    counted: Sequence[bool] | None,
) -> CompletionStates:  # fmt: skip
    """One row per completion, padded on the right."""
    prompts = prompts.rows([b for b in range(len(prompts)) for _ in range(group_size)])
    inputs = [torch.cat([p, r[:-1]]) for p, r in zip(prompts.token_ids, completions, strict=True)]
    positions = [
        torch.cat([places, continued_positions(end, max(len(r) - 1, 0), prompts.device)], dim=1)
        for places, end, r in zip(prompts.positions, prompts.ends, completions, strict=True)
    ]
    ids_BT, mask_BT = pad_rows(inputs)
    width = ids_BT.shape[1]
    token_inputs = decoder.embed(ids_BT, prompts, [row * width for row in range(len(prompts))])
    weights = None if counted is None else mask_BT * tensor_on([float(c) for c in counted], prompts.device)[:, None]
    lengths = [len(r) for r in completions]
    predicted_at = [
        row * width + prompt - 1 + i
        for row, (prompt, length) in enumerate(zip(prompts.lengths, lengths, strict=True))
        for i in range(length)
    ]
    hidden_BTH, routing = _run(decoder, token_inputs, pad_positions(positions), mask_BT, weights, predicted_at)
    return CompletionStates(
        hidden_BTH.flatten(0, 1).index_select(0, tensor_on(predicted_at, prompts.device)),
        torch.cat(list(completions)),
        completion_index(lengths, prompts.device),
        routing,
    )


def _run(
    decoder: Decoder,
    inputs: TokenInputs,
    positions: Tensor,
    mask: Tensor | Layout,
    weights: Tensor | None,
    wanted: Sequence[int],
) -> tuple[Tensor, Routing | None]:
    """Hidden states (B, T, H), of which some are `wanted`, and with `weights` (B * T) of the tokens the routing."""
    if weights is None:
        return decoder.hidden_states(inputs, positions, mask, wanted=sorted(set(wanted))), None
    hidden_BTH, logits = decoder.states_and_routing(inputs, positions, mask)
    return hidden_BTH, Routing(logits, weights.flatten())


def continued_positions(end: float, length: int, device: torch.device) -> Tensor:
    """Positions (3, `length`) of a completion: text that goes on where its prompt ends."""
    return (torch.arange(length, device=device) + end).expand(3, -1)


def completion_index(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(N,) the completion that each token belongs to, from their lengths."""
    return tensor_on([number for number, length in enumerate(lengths) for _ in range(length)], device)


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
