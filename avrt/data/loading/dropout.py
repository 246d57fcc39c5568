"""Modality dropout: training samples lose vision or audio at random, an ablation that the paper leaves open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avrt.data.media.clip import Clip
from avrt.data.sample import Sense


@dataclass(frozen=True)
class ModalityDropout:
    """How often a training sample loses a sense. A sample with only one sense keeps it, and no sample loses both.

    Attributes:
        audio: Probability of losing the sound.
        vision: Probability of losing frames and picture.
        seed: Decides together with epoch and sample, so that runs can be repeated and resumed.
    """

    audio: float = 0.0
    vision: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that are not probabilities of exclusive events."""
        if self.audio < 0 or self.vision < 0 or self.audio + self.vision > 1:
            raise ValueError("data.dropout: needs audio >= 0, vision >= 0 and audio + vision <= 1")

    def apply(self, clip: Clip, epoch: int, index: int) -> tuple[Clip, Sense | None]:
        """What is left of a clip, and the sense that it lost.

        Args:
            clip: The sample's media.
            epoch: Current epoch.
            index: The sample.
        """
        if clip.audio is None or clip.pictures is None:
            return clip, None
        draw = np.random.default_rng([self.seed, epoch, index]).random()
        if draw < self.audio:
            return clip.part(Sense.VISION), Sense.AUDIO
        if draw < self.audio + self.vision:
            return clip.part(Sense.AUDIO), Sense.VISION
        return clip, None
