"""A group's completions as a tree: what several of them begin with alike is read and scored once.

The completions of a question have much in common where the policy is sure of itself: of a fine-tuned nano student's
half the tokens are another completion's too. A token sees its prompt and its ancestors, so that the numbers are those
of separate completions, and the gradients of tokens that were read once add up. Cf. tree attention of SpecInfer (arXiv
2305.09781).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.transfer import tensor_on

WORTH_IT = 0.7
"""A tree is made where it has less than this share of the tokens: its tokens look at all the others of the group."""


@dataclass(frozen=True)
class PrefixTree:
    """The tree of G completions, n tokens that are read; the root is the prompt's last token, place -1.

    Attributes:
        tokens: The n tokens.
        depths: Of each how many tokens of its completion come before it.
        counts: Of each the completions that it belongs to.
        readers: For each token of the completions, one behind the other, the place from whose state it is predicted.
        firsts: For each of them the first one of the same token that is predicted there; their scores are the same.
        sees: (n, n) bool, whether a token sees another: itself and its ancestors.
    """

    tokens: list[int]
    depths: list[int]
    counts: list[list[int]]
    readers: list[int]
    firsts: list[int]
    sees: Tensor

    def mask(self, prompt: int, window: int | None) -> Tensor:
        """(n, prompt + n) bool: what each token sees of the prompt and of the tree, within a window if there is one."""
        device = self.sees.device
        seen = torch.cat([torch.ones(len(self.tokens), prompt, dtype=torch.bool, device=device), self.sees], dim=1)
        if window is None:
            return seen
        depths = tensor_on(self.depths, device)
        places = torch.cat([torch.arange(-prompt, 0, device=device), depths])
        return seen & (depths[:, None] - places < window)


def prefix_tree(completions: Sequence[Sequence[int]]) -> PrefixTree | None:
    """The tree of some completions (token ids); None where they have too little in common.

    The last token of a completion predicts nothing that is scored, so that it is not read for its own sake.
    """
    places: dict[tuple[int, int], int] = {}
    paths: list[list[int]] = []
    readers: list[int] = []
    scored: dict[tuple[int, int], int] = {}
    firsts: list[int] = []
    for ids in completions:
        at, path = -1, []
        for number, token in enumerate(ids):
            firsts.append(scored.setdefault((at, token), len(firsts)))
            readers.append(at)
            if number + 1 < len(ids):
                at = places.setdefault((at, token), len(places))
                path.append(at)
        paths.append(path)
    if len(places) > WORTH_IT * sum(map(len, paths)) or not places:
        return None
    depths, counts = [0] * len(places), [[] for _ in places]  # type: list[int], list[list[int]]
    sees = torch.zeros(len(places), len(places), dtype=torch.bool, device="cpu")
    for number, path in enumerate(paths):
        for depth, place in enumerate(path):
            depths[place] = depth
            counts[place].append(number)
        index = torch.tensor(path, device="cpu", dtype=torch.long)
        sees[index[:, None], index] |= torch.ones(len(path), len(path), dtype=torch.bool, device="cpu").tril()
    return PrefixTree([token for _, token in places], depths, counts, readers, firsts, sees)
