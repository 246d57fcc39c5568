"""Prompts as the policy reads them: tokens, positions, and the features of their clips, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.models.tower_inputs import TowerInputs


@dataclass(frozen=True)
class ClipFeatures:
    """Tower outputs of B clips.

    Where the towers are frozen, these are the same for every completion, for the policy and for the reference.

    Attributes:
        vision: For each row its image or video tokens (n, H), or None; of families whose decoder layers also read what
            the tower had after some of its own layers, (n, H (1 + layers)).
        audio: For each row its audio tokens (n, H), or None.
        idle: With a gradient, what towers made of a minimal input because no row had one for them. No token stands for
            it, but the embeddings depend on it: ranks take part in each other's gathering of weights, so that the way
            of a gradient must not depend on what a rank's rows hold.
    """

    vision: list[Tensor | None]
    audio: list[Tensor | None]
    idle: list[Tensor] = field(default_factory=list)

    @classmethod
    def none(cls, count: int) -> ClipFeatures:
        """Of `count` clips none."""
        return cls([None] * count, [None] * count)

    def rows(self, indices: Sequence[int]) -> ClipFeatures:
        """The features of some rows, in that order; a row may occur several times, without a copy."""
        return ClipFeatures([self.vision[i] for i in indices], [self.audio[i] for i in indices], self.idle)


@dataclass(frozen=True)
class EncodedPrompts:
    """B prompts with the features of their clips.

    Attributes:
        token_ids: B tensors (P_i,).
        positions: B tensors (3, P_i) of time, height and width; where a family has one axis, all three are the same.
        ends: B numbers: each prompt's largest position + 1, where its completions go on.
        vision_places: B tensors (n,): where in each prompt the picture tokens are.
        audio_places: B tensors (n,): where in each prompt the sound tokens are.
        features: Their clips' features; none where `tower_inputs` are there in their stead.
        clips: The B decoded clips on the CPU, for an engine that prepares media by itself; may be empty.
        sample_ids: The B samples' ids, for messages; may be empty.
        tower_inputs: What features are made of, where they change from step to step; empty elsewhere.
    """

    token_ids: list[Tensor]
    positions: list[Tensor]
    ends: list[float]
    vision_places: list[Tensor]
    audio_places: list[Tensor]
    features: ClipFeatures
    clips: list[Clip] = field(default_factory=list)
    sample_ids: list[str] = field(default_factory=list)
    tower_inputs: list[TowerInputs] = field(default_factory=list)

    @classmethod
    def of(cls, batch: OmniBatch, features: ClipFeatures, tower_inputs: Sequence[TowerInputs] = ()) -> EncodedPrompts:
        """A batch's prompts."""
        ids = [sample.id for sample in batch.samples]
        return cls(
            batch.prompt_ids, batch.prompt_positions, batch.position_ends, batch.vision_places, batch.audio_places,
            features, batch.clips, ids, [*tower_inputs],
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.token_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt, P_i."""
        return [len(ids) for ids in self.token_ids]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.token_ids[0].device

    def rows(self, indices: Sequence[int]) -> EncodedPrompts:
        """Some of the prompts, in that order, without their decoded clips; one may occur several times."""
        return EncodedPrompts(
            [self.token_ids[i] for i in indices],
            [self.positions[i] for i in indices],
            [self.ends[i] for i in indices],
            [self.vision_places[i] for i in indices],
            [self.audio_places[i] for i in indices],
            self.features.rows(indices),
            tower_inputs=[self.tower_inputs[i] for i in indices] if self.tower_inputs else [],
        )

    @classmethod
    def join(cls, parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
        """Several sets of prompts as one, without their decoded clips."""
        features = ClipFeatures(
            [v for part in parts for v in part.features.vision],
            [a for part in parts for a in part.features.audio],
            [tokens for part in parts for tokens in part.features.idle],
        )
        return cls(
            [ids for part in parts for ids in part.token_ids],
            [p for part in parts for p in part.positions],
            [end for part in parts for end in part.ends],
            [places for part in parts for places in part.vision_places],
            [places for part in parts for places in part.audio_places],
            features,
            tower_inputs=[inputs for part in parts for inputs in part.tower_inputs],
        )
