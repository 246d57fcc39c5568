"""What a clip is: a few frames with their times, or a picture, and the first seconds of sound at 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from avrt.errors import BadSampleError

SAMPLE_RATE = 16_000
PATCH_FACTOR = 28
MIN_AUDIO_SECONDS = 0.1
MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused, before anything is allocated for them."""


@dataclass(frozen=True)
class FrameBudget:
    """How large a frame may be; the model's own resize rule picks the size within it.

    Attributes:
        min_pixels: Smaller frames are scaled up (the released processor's minimum by default).
        max_pixels: Larger frames are scaled down.
    """

    min_pixels: int = 128 * PATCH_FACTOR**2
    max_pixels: int = 256 * PATCH_FACTOR**2

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels, both multiples of 28, that the model's resize rule gives."""
        try:
            return smart_resize(height, width, PATCH_FACTOR, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise BadSampleError(f"frames of {width}x{height} cannot be resized: {error}") from None


STILLS = FrameBudget(4 * PATCH_FACTOR**2, 16384 * PATCH_FACTOR**2)
"""What the released processor and `qwen_omni_utils` allow a still picture."""


@dataclass(frozen=True)
class ClipSpec:
    """What is taken from a clip.

    Attributes:
        frames: Number of frames, uniformly spaced by time over the whole clip.
        fps: So many frames a second in place of a fixed number.
        max_frames: At most so many frames, where `fps` says how many.
        audio_seconds: Length of the sound taken from its beginning; None takes all of it.
        budget: Size rule of a video's frames.
        still_budget: Size rule of still pictures.
    """

    frames: int = 8
    fps: float | None = None
    max_frames: int = 768
    audio_seconds: float | None = 10.0
    budget: FrameBudget = field(default_factory=FrameBudget)
    still_budget: FrameBudget = STILLS

    def __post_init__(self) -> None:
        """Refuse numbers that no clip can satisfy."""
        if self.frames < 1 or self.max_frames < 1 or (self.fps is not None and self.fps <= 0):
            raise ValueError("needs frames >= 1, max_frames >= 1 and fps > 0")
        if self.audio_seconds is not None and self.audio_seconds < MIN_AUDIO_SECONDS:
            raise ValueError(f"needs audio_seconds >= {MIN_AUDIO_SECONDS}, or none for all of the sound")

    def frame_count(self, duration: float) -> int:
        """How many frames a video of `duration` seconds gives."""
        return self.frames if self.fps is None else max(1, min(self.max_frames, round(duration * self.fps)))


@dataclass
class Clip:
    """Decoded media of one sample.

    Attributes:
        frames: (F, 3, H, W) uint8 video frames, or None.
        timestamps: The F true presentation times in seconds from the clip's start.
        seconds_per_frame: Spacing of the uniform grid that the frames were picked on (clip length / F).
        image: (3, H, W) uint8 still picture, or None.
        audio: (S,) float32 mono sound at 16 kHz, or None.
        info: What the source was: duration, width, height, fps, and notes on what had to be worked around.
    """

    frames: Tensor | None = None
    timestamps: tuple[float, ...] = ()
    seconds_per_frame: float | None = None
    image: Tensor | None = None
    audio: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def part(self, senses: Literal["both", "sight", "sound", "none"], *, blank: bool = False) -> Clip:
        """What some senses take in of the clip.

        Args:
            senses: `sight` is the clip without its sound, `sound` nothing but its sound, `none` nothing at all.
            blank: Put black pictures and silence of the same size in the place of what is taken away.
        """
        part = replace(self)
        if senses in ("sight", "none") and self.audio is not None:
            part.audio = torch.zeros_like(self.audio) if blank else None
        if senses in ("sound", "none"):
            part.frames, part.image = (
                torch.zeros_like(picture) if blank and picture is not None else None
                for picture in (self.frames, self.image)
            )
            if part.frames is None:
                part.timestamps, part.seconds_per_frame = (), None
        return part
