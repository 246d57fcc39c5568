"""Prompts as the policy reads them: tokens, positions, and the features of their clips, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrt.data.media.clip import Clip


@dataclass(frozen=True)
class ClipFeatures:
    """Tower outputs of B clips.

    The towers are frozen, so these are the same for every completion, for the policy and for the reference.

    Attributes:
        vision: For each row its image or video tokens (n, H), or None.
        audio: For each row its audio tokens (n, H), or None.
    """

    vision: list[Tensor | None]
    audio: list[Tensor | None]

    def rows(self, indices: Sequence[int]) -> ClipFeatures:
        """The features of some rows, in that order; a row may occur several times, without a copy."""
        return ClipFeatures([self.vision[i] for i in indices], [self.audio[i] for i in indices])


@dataclass(frozen=True)
class EncodedPrompts:
    """B prompts with the features of their clips.

    Attributes:
        token_ids: B tensors (P_i,).
        positions: B tensors (3, P_i).
        features: Their clips' features.
        clips: The B decoded clips on the CPU, for an engine that prepares media by itself; may be empty.
        sample_ids: The B samples' ids, for messages; may be empty.
    """

    token_ids: list[Tensor]
    positions: list[Tensor]
    features: ClipFeatures
    clips: list[Clip] = field(default_factory=list)
    sample_ids: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.token_ids)

    def rows(self, indices: Sequence[int]) -> EncodedPrompts:
        """Some of the prompts, in that order, without their decoded clips; one may occur several times."""
        return EncodedPrompts(
            [self.token_ids[i] for i in indices], [self.positions[i] for i in indices], self.features.rows(indices)
        )

    @classmethod
    def join(cls, parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
        """Several sets of prompts as one, without their decoded clips."""
        features = ClipFeatures(
            [v for part in parts for v in part.features.vision], [a for part in parts for a in part.features.audio]
        )
        return cls(
            [ids for part in parts for ids in part.token_ids], [p for part in parts for p in part.positions], features
        )


def continued_positions(prompt_positions: Tensor, length: int) -> Tensor:
    """Positions (3, `length`) of a completion: text that begins after the largest position of its prompt (3, P)."""
    start = int(prompt_positions.max()) + 1
    return torch.arange(start, start + length, device=prompt_positions.device).expand(3, -1)
