"""The completions that are being decoded: what was drawn for each so far, all of it on the device.

Nothing in here asks the device for a number, so that a token costs no waiting, and can be a part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions, draw


class Rows:
    """R rows, each with a completion of up to `steps` tokens.

    Args:
        count: R.
        steps: Room in tokens.
        sampling: How to draw; its longest completion may be shorter than the room.
        eos_token_id: The token that ends a completion; -1 for none.
        device: Where everything is.

    Attributes:
        tokens: (R, steps + 1) what was drawn; the last column takes what is drawn for rows that have finished.
        logprobs: (R, steps + 1) float32, its log-probabilities.
        drawn: (R,) how many tokens were drawn.
        last: (R,) the newest token.
        finished: (R,) bool; a row nobody has begun is finished.
        ends: (R,) float32 position at which the row's completion begins.
        uniforms: (R, steps) the number that decides each draw.
    """

    def __init__(
        self, count: int, steps: int, sampling: SamplingOptions, eos_token_id: int, device: torch.device
    ) -> None:
        self.sampling = sampling
        self.eos_token_id = eos_token_id
        self.tokens = torch.zeros(count, steps + 1, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(count, steps + 1, device=device)
        self.drawn = torch.zeros(count, dtype=torch.long, device=device)
        self.last = torch.zeros(count, dtype=torch.long, device=device)
        self.finished = torch.ones(count, dtype=torch.bool, device=device)
        self.ends = torch.zeros(count, device=device)
        self.uniforms = torch.zeros(count, steps, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        """R."""
        return len(self.last)

    @property
    def positions(self) -> Tensor:
        """(3, R, 1) positions of the newest tokens."""
        return (self.ends + self.drawn - 1)[None, :, None].expand(3, -1, 1)

    def begin(self, rows: Tensor, logits: Tensor, uniforms: Tensor, ends: Tensor) -> None:
        """Let rows begin a completion each, with a first token.

        Args:
            rows: (n,) which.
            logits: (n, V) of the first token.
            uniforms: (n, longest completion) numbers in [0, 1).
            ends: (n,) positions at which the completions begin.
        """
        token, logprob = draw(logits, self.sampling, uniforms[:, 0])
        self.tokens[:, 0].index_copy_(0, rows, token)
        self.logprobs[:, 0].index_copy_(0, rows, logprob)
        self.uniforms[:, : uniforms.shape[1]].index_copy_(0, rows, uniforms)
        self.ends.index_copy_(0, rows, ends)
        self.last.index_copy_(0, rows, token)
        self.drawn.index_fill_(0, rows, 1)
        over = token == self.eos_token_id
        self.finished.index_copy_(0, rows, over if self.sampling.max_new_tokens > 1 else torch.ones_like(over))

    def draw(self, logits: Tensor) -> None:
        """Draw the next token of every row that has not finished, from logits (R, V)."""
        running = ~self.finished
        room = self.uniforms.shape[1]
        uniform = self.uniforms.gather(1, self.drawn.clamp(max=room - 1)[:, None])[:, 0]
        token, logprob = draw(logits, self.sampling, uniform)
        column = torch.where(running, self.drawn, room)[:, None]
        self.tokens.scatter_(1, column, token[:, None])
        self.logprobs.scatter_(1, column, logprob[:, None])
        self.last.copy_(torch.where(running, token, self.last))
        self.drawn.add_(running)
        over = (self.last == self.eos_token_id) | (self.drawn >= self.sampling.max_new_tokens)
        self.finished.logical_or_(over)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but some (n,), in that order."""
        for name in ("tokens", "logprobs", "drawn", "last", "finished", "ends", "uniforms"):
            setattr(self, name, getattr(self, name).index_select(0, rows))

    def completions(self, rows: Sequence[int]) -> list[Completion]:
        """What was drawn for some rows; asks the device once for all their lengths."""
        lengths, last = torch.stack([self.drawn, self.last]).tolist()
        return [
            Completion(
                self.tokens[row, : lengths[row]].clone(),
                self.logprobs[row, : lengths[row]].clone(),
                last[row] == self.eos_token_id,
            )
            for row in rows
        ]
