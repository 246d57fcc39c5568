"""Modality dropout: training samples that lose sound or pictures at random, the ablation that the paper leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from avrt.data.media.clip import Clip

Sense = Literal["vision", "audio"]


@dataclass(frozen=True)
class ModalityDropout:
    """How often a training sample loses a sense; one that has a single sense keeps it, and none loses both.

    Attributes:
        audio: Probability of losing the sound.
        vision: Probability of losing the pictures.
        seed: Decides with epoch and sample alone, so that runs can be repeated and resumed.
    """

    audio: float = 0.0
    vision: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what are no probabilities of exclusive events."""
        if self.audio < 0 or self.vision < 0 or self.audio + self.vision > 1:
            raise ValueError("data.dropout: needs audio >= 0, vision >= 0 and audio + vision <= 1")

    def apply(self, clip: Clip, epoch: int, index: int) -> tuple[Clip, Sense | None]:
        """The clip as the student gets it, and what it lost.

        Args:
            clip: The sample's media.
            epoch: Current epoch.
            index: The sample.
        """
        if clip.audio is None or (clip.frames is None and clip.image is None):
            return clip, None
        draw = np.random.default_rng([self.seed, epoch, index]).random()
        if draw < self.audio:
            return clip.part("vision"), "audio"
        if draw < self.audio + self.vision:
            return clip.part("audio"), "vision"
        return clip, None
