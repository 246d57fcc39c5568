"""Decoding on the CPU: rows that have the same prompt and have drawn the same tokens are one branch, computed once.

A group's completions begin alike and part one by one. What a branch has seen lies in buffers with room for more, so
that a token is written, not the whole cache copied; a row that parts from its branch takes a copy of it along.
Finding out who parts asks for every token that was drawn: on a GPU each token would wait for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.rollout.prefill import prefill_packed
from avrt.rollout.rows import Rows
from avrt.transfer import tensor_on

FIRST_ROOM = 32
"""Tokens that the buffers have room for at first; it is doubled when they are full."""
COMPACT_BELOW = 0.75
"""Branches that no row follows any more are dropped when fewer than this share is left."""


class BranchCaches:
    """Keys and values of n branches with t tokens each; implements what a decoder asks of transformers' caches.

    Args:
        decoder: The policy's decoder.
        branches: How many there can be.
    """

    def __init__(self, decoder: Decoder, branches: int) -> None:
        weight = next(decoder.lm_head.parameters())
        self._device = weight.device
        self._cache_of_layer = decoder.cache_of_layer
        self._buffers = [
            [weight.new_zeros(branches, kind.heads, FIRST_ROOM, kind.width) for _ in range(2)]
            for kind in decoder.caches
        ]
        self.branches = 0
        self.tokens = 0

    def copy(self, parents: Sequence[int], branches: Sequence[int]) -> None:
        """Let some branches be copies of others."""
        if not self.tokens:
            return
        source, target = (tensor_on(places, self._device) for places in (parents, branches))
        for buffers in self._buffers:
            for buffer in buffers:
                seen = buffer[:, :, : self.tokens]
                seen[target] = seen[source]

    def keep(self, branches: Sequence[int]) -> None:
        """Drop all branches but some, which get the first places in that order."""
        index = tensor_on(branches, self._device)
        for buffers in self._buffers:
            for buffer in buffers:
                buffer[: len(branches), :, : self.tokens] = buffer[index, :, : self.tokens]

    def begin_token(self, branches: int) -> None:
        """Make room for one more token of so many branches."""
        self.branches = branches
        self.tokens += 1
        for buffers in self._buffers:
            for i, buffer in enumerate(buffers):
                if self.tokens > buffer.shape[2]:
                    buffers[i] = torch.cat([buffer, torch.zeros_like(buffer)], dim=2)

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write each branch's newest keys and values (n, heads, 1, D) behind a layer's others; returns all of them."""
        keys, values = (
            buffer[: self.branches, :, : self.tokens] for buffer in self._buffers[self._cache_of_layer[layer]]
        )
        keys[:, :, -1:] = key
        values[:, :, -1:] = value
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """Not what positions are made of here."""
        return 0


class BranchContext:
    """What decoding rows have seen: the prompts' caches, shared, and the branches' own.

    Args:
        decoder: The policy's decoder, whose attention supports packing.
        prompts: B prompts.
        group_size: G, rows of each.

    Attributes:
        first_logits: (B, V) of each prompt's first token.
    """

    def __init__(self, decoder: Decoder, prompts: EncodedPrompts, group_size: int) -> None:
        prefilled = prefill_packed(decoder, prompts)
        self.first_logits = prefilled.logits
        self._decoder = decoder
        self._all = prefilled.shared()
        self._caches = BranchCaches(decoder, len(prompts) * group_size)
        self._prompts = list(range(len(prompts)))  # of each branch
        self._branches = [b for b in range(len(prompts)) for _ in range(group_size)]  # of each row
        self._prefix = self._all.for_rows(self._prompts)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but some."""
        self._branches = [self._branches[row] for row in rows]

    def advance(self, rows: Rows) -> None:
        """Read every branch's newest token and draw every row's next one."""
        speakers = self._part(rows.last.tolist(), rows.finished.tolist())
        self._caches.begin_token(len(speakers))
        device = rows.last.device
        index = tensor_on(speakers, device)
        inputs = self._decoder.embed_completion(rows.last[index, None])
        hidden = self._decoder.hidden_states(inputs, rows.positions[:, index], self._prefix, self._caches)
        rows.draw(self._decoder.logits(hidden[:, -1]).index_select(0, tensor_on(self._branches, device)))

    def _part(self, tokens: Sequence[int], finished: Sequence[bool]) -> list[int]:
        """Give rows that have drawn another token than the first row of their branch a branch of their own.

        Returns:
            For each branch a row that follows it; any row for a branch that none does.
        """
        followers: dict[tuple[int, int], list[int]] = {}  # of each branch and token
        for row, (token, over) in enumerate(zip(tokens, finished, strict=True)):
            if not over:
                followers.setdefault((self._branches[row], token), []).append(row)
        speakers = [0] * len(self._prompts)
        left, parting = set(range(len(self._prompts))), []
        for (branch, _), own in followers.items():
            if branch in left:
                left.remove(branch)
                speakers[branch] = own[0]
            else:
                parting.append((branch, own))
        free, copies, before = sorted(left, reverse=True), [], list(self._prompts)
        for parent, own in parting:
            branch = free.pop() if free else len(self._prompts)
            if branch == len(self._prompts):
                self._prompts.append(0)
                speakers.append(0)
            self._prompts[branch], speakers[branch] = self._prompts[parent], own[0]
            copies.append((parent, branch))
            for row in own:
                self._branches[row] = branch
        if copies:
            self._caches.copy(*zip(*copies, strict=True))
        if followers and len(speakers) - len(free) < COMPACT_BELOW * len(speakers):
            speakers = self._drop(set(free), speakers)
        if self._prompts != before:
            self._prefix = self._all.for_rows(self._prompts)
        return speakers

    def _drop(self, unused: set[int], speakers: list[int]) -> list[int]:
        """Drop branches that no row follows."""
        kept = [branch for branch in range(len(speakers)) if branch not in unused]
        self._caches.keep(kept)
        self._prompts = [self._prompts[branch] for branch in kept]
        places = {branch: place for place, branch in enumerate(kept)}
        self._branches = [places.get(branch, 0) for branch in self._branches]  # of finished rows any
        return [speakers[branch] for branch in kept]
