"""How large each student family wants its pictures: one token's side, limits in that family's tokens, the resize rule.

Imports nothing heavy: the options of `avrt shards` are known without a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from avrt.data.media.clip_spec import PATCH_SIZE, ClipSpec, FrameBudget

GEMMA_FRAME_TOKENS, GEMMA_STILL_TOKENS = 70, 280
"""Most tokens of a frame and of a still picture by Gemma 4's released processor."""


@dataclass(frozen=True)
class StudentFrames:
    """What a family's processor does with pictures.

    Attributes:
        side: Pixels along one token.
        frame_tokens: Most tokens of a frame, of families that make it as large as these allow; None for those that keep
            its size within bounds, of which a recipe has its own.
        still_tokens: Most tokens of a still picture, likewise.
    """

    side: int
    frame_tokens: int | None = None
    still_tokens: int | None = None

    def spec_for(self, clip: ClipSpec) -> ClipSpec:
        """A recipe's spec for this family: as many tokens as it takes, or as the family's rule allows.

        Teachers' pictures stay as they are.
        """
        total = None if clip.total_pixels is None else self._scaled(clip, clip.total_pixels)
        if self.frame_tokens is None or self.still_tokens is None:
            frames, stills = (
                FrameBudget(self._scaled(clip, budget.min_pixels), self._scaled(clip, budget.max_pixels))
                for budget in (clip.budget, clip.still_budget)
            )
            return replace(clip, patch_size=self.side, total_pixels=total, budget=frames, still_budget=stills)
        least = self.side**2
        frames, stills = (FrameBudget(least, tokens * least) for tokens in (self.frame_tokens, self.still_tokens))
        return replace(
            clip, patch_size=self.side, resize="largest", total_pixels=total, budget=frames, still_budget=stills
        )

    def _scaled(self, clip: ClipSpec, pixels: int) -> int:
        """The pixels of as many of this family's tokens."""
        return pixels * self.side**2 // clip.patch_size**2


STUDENTS = {
    "qwen2.5-omni": StudentFrames(PATCH_SIZE),
    "qwen3-omni": StudentFrames(32),
    "gemma4": StudentFrames(48, GEMMA_FRAME_TOKENS, GEMMA_STILL_TOKENS),
}
"""By the name that `avrt shards --student` takes."""


def student_of(patch_size: int) -> str | None:
    """The first family whose tokens have this side, or None."""
    return next((name for name, frames in STUDENTS.items() if frames.side == patch_size), None)


def fitting(clip: ClipSpec, patch_size: int) -> ClipSpec:
    """A spec for the family whose tokens have this side in pixels, unless it is for such tokens already."""
    name = student_of(patch_size)
    return clip if name is None or clip.patch_size == patch_size else STUDENTS[name].spec_for(clip)
