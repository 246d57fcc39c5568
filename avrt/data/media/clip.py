"""What a clip is: frames with their times, or a picture, and sound at 16 kHz. How much is taken is in `clip_spec`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from avrt.data.media.clip_spec import (
    FRAME_STEP,
    LEAST_FRAMES,
    MAX_AUDIO_SECONDS,
    MAX_PIXELS,
    MIN_AUDIO_SECONDS,
    PATCH_SIZE,
    SAMPLE_RATE,
    STILLS,
    ClipSpec,
    FrameBudget,
)
from avrt.data.sample import Sense

__all__ = [
    "FRAME_STEP",
    "LEAST_FRAMES",
    "MAX_AUDIO_SECONDS",
    "MAX_PIXELS",
    "MIN_AUDIO_SECONDS",
    "PATCH_SIZE",
    "SAMPLE_RATE",
    "STILLS",
    "Clip",
    "ClipSpec",
    "FrameBudget",
]


@dataclass(eq=False)
class Clip:
    """Decoded media of one sample.

    Attributes:
        frames: (F, 3, H, W) uint8 video frames, or None.
        timestamps: The F true presentation times in seconds from the clip's start.
        seconds_per_frame: Spacing of the uniform grid that the frames were picked on (clip length / F).
        image: (3, H, W) uint8 still picture, or None.
        audio: (S,) float32 mono sound at 16 kHz, or None.
        for_teachers: (F, 3, H, W) uint8, the `pictures` at the size for teachers; None if it is the same size, and in
            clips read from shards.
        info: Facts about the source: duration, width, height, fps, and notes on what was repaired.
        kept: Whether it stays in memory for other questions and epochs, so that what is made of it is worth keeping.
    """

    frames: Tensor | None = None
    timestamps: tuple[float, ...] = ()
    seconds_per_frame: float | None = None
    image: Tensor | None = None
    audio: Tensor | None = None
    for_teachers: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)
    kept: bool = False

    @property
    def pictures(self) -> Tensor | None:
        """(F, 3, H, W) uint8: the frames, or the still picture as the only one; None without either."""
        return self.frames if self.frames is not None or self.image is None else self.image[None]

    def part(self, senses: Sense | Literal["both", "vision", "audio", "none"], *, blank: bool = False) -> Clip:
        """What is left of the clip for some senses.

        Args:
            senses: `vision` keeps frames and picture, `audio` keeps the sound, `none` keeps nothing.
            blank: Replace what is taken away by black pictures and silence of the same size.
        """
        part = replace(self, kept=False)
        if senses in ("vision", "none") and self.audio is not None:
            part.audio = torch.zeros_like(self.audio) if blank else None
        if senses in ("audio", "none"):
            part.frames, part.image = (
                torch.zeros_like(picture) if blank and picture is not None else None
                for picture in (self.frames, self.image)
            )
            if part.frames is None:
                part.timestamps, part.seconds_per_frame = (), None
        return part
