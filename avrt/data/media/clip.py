"""What a clip is: frames with their times, or a picture, and sound at 16 kHz; and how much of them is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from avrt.errors import BadSampleError

SAMPLE_RATE = 16_000
PATCH_FACTOR = 28
MIN_AUDIO_SECONDS = 0.1
MAX_AUDIO_SECONDS = 1800.0
"""More sound of one clip is neither taken nor read; the released models' context holds less."""
MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused, before anything is allocated for them."""
_FRAME_SLACK = 1e-3
_ABOVE_LEAST = 1.05
FRAME_STEP = 2
"""Frames that become one step of the model's time."""
LEAST_FRAMES = 4
"""Of a video that is sampled by frames a second, as `qwen_omni_utils` has it."""


@dataclass(frozen=True)
class FrameBudget:
    """How large a frame may be; the model's own resize rule picks the size within it.

    Attributes:
        min_pixels: Smaller frames are scaled up (the released processor's minimum by default).
        max_pixels: Larger frames are scaled down.
    """

    min_pixels: int = 128 * PATCH_FACTOR**2
    max_pixels: int = 256 * PATCH_FACTOR**2

    def __post_init__(self) -> None:
        """Refuse an order that no frame can satisfy."""
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(f"needs 1 <= min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels, both multiples of 28, that the model's resize rule gives."""
        try:
            return smart_resize(height, width, PATCH_FACTOR, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise BadSampleError(f"frames of {width}x{height} cannot be resized: {error}") from None


STILLS = FrameBudget(4 * PATCH_FACTOR**2, 16384 * PATCH_FACTOR**2)
"""What the released processor, `qwen_omni_utils` and the evaluators that call it allow a still picture."""


@dataclass(frozen=True)
class ClipSpec:
    """What is taken from a clip.

    Attributes:
        frames: Number of frames, uniformly spaced by time over the whole clip. An odd number is shown with the last
            frame twice, since the model sees two at a time.
        fps: So many frames a second in place of a fixed number, rounded down to an even number and at least 4.
        max_frames: At most so many frames, where `fps` says how many.
        audio_seconds: Length of the sound taken from its beginning; None takes all of it, up to `MAX_AUDIO_SECONDS`.
        budget: Size rule of a video's frames.
        still_budget: Size rule of still pictures.
        total_pixels: A video gets no more tokens than a picture of so many pixels: with many frames each is smaller,
            by the rule of `qwen_omni_utils`. None for no such limit.
        teacher_budget: Size rule of pictures that are stored beside these for the teachers of trace runs; None for
            none.
    """

    frames: int = 8
    fps: float | None = None
    max_frames: int = 768
    audio_seconds: float | None = 10.0
    budget: FrameBudget = field(default_factory=FrameBudget)
    still_budget: FrameBudget = STILLS
    total_pixels: int | None = None
    teacher_budget: FrameBudget | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no clip can satisfy."""
        if self.frames < 1 or self.max_frames < FRAME_STEP or (self.fps is not None and not 0 < self.fps < math.inf):
            raise ValueError(f"needs frames >= 1, fps > 0 and max_frames >= {FRAME_STEP}")
        if self.audio_seconds is not None and not MIN_AUDIO_SECONDS <= self.audio_seconds <= MAX_AUDIO_SECONDS:
            raise ValueError(
                f"needs audio_seconds from {MIN_AUDIO_SECONDS} to {MAX_AUDIO_SECONDS:.0f}, or none for all of the sound"
            )
        if self.total_pixels is not None and self.total_pixels < 1:
            raise ValueError("needs total_pixels >= 1")

    def frame_count(self, duration: float) -> int:
        """How many frames a video of `duration` seconds gives."""
        if self.fps is None:
            return self.frames
        wanted = min(max(duration * self.fps, LEAST_FRAMES), self.max_frames)
        return int(wanted + _FRAME_SLACK) // FRAME_STEP * FRAME_STEP

    def frame_budget(self, count: int) -> FrameBudget:
        """Size rule of each of a video's `count` frames."""
        if self.total_pixels is None:
            return self.budget
        least = self.budget.min_pixels
        share = max(self.total_pixels * FRAME_STEP // count, int(least * _ABOVE_LEAST))
        return FrameBudget(least, max(least, min(self.budget.max_pixels, share)))

    @property
    def sound_limit(self) -> float:
        """Seconds of sound that are taken at most."""
        return MAX_AUDIO_SECONDS if self.audio_seconds is None else self.audio_seconds


@dataclass
class Clip:
    """Decoded media of one sample.

    Attributes:
        frames: (F, 3, H, W) uint8 video frames, or None.
        timestamps: The F true presentation times in seconds from the clip's start.
        seconds_per_frame: Spacing of the uniform grid that the frames were picked on (clip length / F).
        image: (3, H, W) uint8 still picture, or None.
        audio: (S,) float32 mono sound at 16 kHz, or None.
        for_teachers: (F, 3, H, W) uint8, the frames, or else the picture as one of them, at the size that teachers get;
            None where it is no other, and in clips that are read from shards.
        info: What the source was: duration, width, height, fps, and notes on what had to be worked around.
    """

    frames: Tensor | None = None
    timestamps: tuple[float, ...] = ()
    seconds_per_frame: float | None = None
    image: Tensor | None = None
    audio: Tensor | None = None
    for_teachers: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def part(self, senses: Literal["both", "vision", "audio", "none"], *, blank: bool = False) -> Clip:
        """What some senses take in of the clip.

        Args:
            senses: `vision` is the clip without its sound, `audio` nothing but its sound, `none` nothing at all.
            blank: Put black pictures and silence of the same size in the place of what is taken away.
        """
        part = replace(self)
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
