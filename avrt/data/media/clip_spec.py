"""How much of a clip is taken: frames, their sizes, seconds of sound. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from avrt.errors import BadSampleError

SAMPLE_RATE = 16_000
PATCH_SIZE = 28
"""Pixels along the side of one token of a picture in Qwen2.5-Omni: patches of 14, merged two by two."""
MIN_AUDIO_SECONDS = 0.1
MAX_AUDIO_SECONDS = 1800.0
"""Longer sound is cut here; the context of the released models holds less than this."""
MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused before any memory is allocated for them."""
FRAME_STEP = 2
"""Frames that become one step of time in the Qwen families; Gemma 4 encodes each frame by itself."""
LEAST_FRAMES = 4
"""Fewest frames of a video that is sampled by frames a second, as in `qwen_omni_utils`."""
Resize = Literal["bounds", "largest"]
"""How a picture's size is found: the nearest one within bounds, or the largest of its shape below the upper bound."""
_FRAME_SLACK = 1e-3
_ABOVE_LEAST = 1.05


@dataclass(frozen=True)
class FrameBudget:
    """How large a frame may be; the model's own resize rule picks the size within it.

    Attributes:
        min_pixels: Smaller frames are scaled up (default: the minimum of the released processor).
        max_pixels: Larger frames are scaled down.
    """

    min_pixels: int = 128 * PATCH_SIZE**2
    max_pixels: int = 256 * PATCH_SIZE**2

    def __post_init__(self) -> None:
        """Refuse bounds that no frame can satisfy."""
        if not 1 <= self.min_pixels <= self.max_pixels:
            raise ValueError(f"needs 1 <= min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")

    def size(self, height: int, width: int, patch_size: int = PATCH_SIZE, resize: Resize = "bounds") -> tuple[int, int]:
        """Height and width in pixels, both multiples of `patch_size`, by the model's resize rule.

        Raises:
            BadSampleError: If the frame is too narrow to be resized.
        """
        if resize == "largest":
            return self._largest(height, width, patch_size)
        # imported here, so that a recipe's options are known without transformers
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        try:
            rows, columns = smart_resize(height, width, patch_size, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise BadSampleError(f"frames of {width}x{height} cannot be resized: {error}") from None
        return rows, columns

    def _largest(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Gemma 4's rule (transformers' `get_aspect_ratio_preserving_size`): the same shape, as large as it may be.

        Args:
            height: In pixels.
            width: In pixels.
            side: Pixels along one token, of which both sides become multiples, rounded down.

        Raises:
            BadSampleError: If the picture is too narrow for any number of tokens that there may be.
        """
        most = self.max_pixels // side**2  # tokens
        scale = math.sqrt(most * side**2 / (height * width))
        rows, columns = int(scale * height / side), int(scale * width / side)
        if not rows and columns:
            rows, columns = 1, min(width // height, most)
        elif rows and not columns:
            rows, columns = min(height // width, most), 1
        if not rows * columns:
            raise BadSampleError(f"frames of {width}x{height} do not fit into {most} tokens of {side}x{side} pixels")
        return rows * side, columns * side


STILLS = FrameBudget(4 * PATCH_SIZE**2, 16384 * PATCH_SIZE**2)
"""Size limits of a still picture in the released processor, in `qwen_omni_utils` and in evaluators that call it."""


@dataclass(frozen=True)
class ClipSpec:
    """What is taken from a clip.

    Attributes:
        frames: Number of frames, evenly spaced by time over the whole clip. The Qwen families see frames in pairs, so
            that the last frame of an odd number is shown twice.
        fps: Frames a second in place of a fixed number; for every family the number is rounded down to an even one, at
            least 4, so that all are shown the same moments.
        max_frames: Most frames that `fps` may give.
        audio_seconds: Seconds of sound taken from the beginning; None takes all, up to `MAX_AUDIO_SECONDS`.
        budget: Size limits of a video's frames.
        still_budget: Size limits of still pictures.
        total_pixels: Size limit of a whole video: it gets no more tokens than a picture of so many pixels, so each of
            many frames is smaller, by the rule of `qwen_omni_utils`; which frames share a token, the resize rule says.
            None for no limit.
        teacher_budget: Size limits of further pictures that are stored for the teachers of trace runs; None for none.
        patch_size: The sides of all pictures are multiples of so many pixels. It belongs to the model family that reads
            the shards.
        resize: How the size of a picture is found within its limits; it belongs to the model family as well.
    """

    frames: int = 8
    fps: float | None = None
    max_frames: int = 768
    audio_seconds: float | None = 10.0
    budget: FrameBudget = field(default_factory=FrameBudget)
    still_budget: FrameBudget = STILLS
    total_pixels: int | None = None
    teacher_budget: FrameBudget | None = None
    patch_size: int = PATCH_SIZE
    resize: Resize = "bounds"

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
        if self.patch_size < 1:
            raise ValueError("needs patch_size >= 1")

    def frame_count(self, duration: float) -> int:
        """How many frames are taken from a video of `duration` seconds; under `fps` an even number for every family."""
        if self.fps is None:
            return self.frames
        wanted = min(max(duration * self.fps, LEAST_FRAMES), self.max_frames)
        return int(wanted + _FRAME_SLACK) // FRAME_STEP * FRAME_STEP

    @property
    def frames_in_a_token(self) -> int:
        """How many neighbouring frames become one token: one in the family that resizes to the largest."""
        return 1 if self.resize == "largest" else FRAME_STEP

    def frame_budget(self, count: int) -> FrameBudget:
        """Size limits of each of a video's `count` frames."""
        if self.total_pixels is None:
            return self.budget
        least = self.budget.min_pixels
        share = max(self.total_pixels * self.frames_in_a_token // count, int(least * _ABOVE_LEAST))
        return FrameBudget(least, max(least, min(self.budget.max_pixels, share)))

    def size(self, height: int, width: int, budget: FrameBudget) -> tuple[int, int]:
        """Height and width in pixels of a picture within one of the budgets.

        Raises:
            BadSampleError: If the picture is too narrow to be resized.
        """
        return budget.size(height, width, self.patch_size, self.resize)

    def to_record(self) -> dict[str, Any]:
        """The spec as manifests and settings have it: the first family's resize rule is not named."""
        record = asdict(self)
        return {name: value for name, value in record.items() if name != "resize" or value != "bounds"}

    @property
    def audio_limit(self) -> float:
        """Most seconds of sound that are taken."""
        return MAX_AUDIO_SECONDS if self.audio_seconds is None else self.audio_seconds
