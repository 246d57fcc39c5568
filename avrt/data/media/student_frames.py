"""How large each student family wants its pictures: one token's side, limits in that family's tokens, the resize rule.

Imports nothing heavy: the options of `avrt shards` are known without a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from avrt.data.media.clip_spec import PATCH_SIZE, ClipSpec, FrameBudget


def _in_tokens(clip: ClipSpec, side: int) -> ClipSpec:
    """As many tokens as the recipe takes, each of them `side` pixels wide; teachers' pictures stay."""

    def scaled(budget: FrameBudget) -> FrameBudget:
        return FrameBudget(*(limit * side**2 // clip.patch_size**2 for limit in (budget.min_pixels, budget.max_pixels)))

    total = _total(clip, side)
    return replace(
        clip, patch_size=side, total_pixels=total, budget=scaled(clip.budget), still_budget=scaled(clip.still_budget)
    )


def _total(clip: ClipSpec, side: int) -> int | None:
    """The limit of a whole video, in as many tokens."""
    return None if clip.total_pixels is None else clip.total_pixels * side**2 // clip.patch_size**2


def _largest(clip: ClipSpec, side: int, frame: int, still: int) -> ClipSpec:
    """As large as so many tokens of a frame and of a still picture allow, whatever a recipe takes."""
    frames, stills = (FrameBudget(side**2, tokens * side**2) for tokens in (frame, still))
    total = _total(clip, side)
    return replace(clip, patch_size=side, resize="largest", total_pixels=total, budget=frames, still_budget=stills)


STUDENTS: dict[str, tuple[int, Callable[[ClipSpec], ClipSpec]]] = {
    "qwen2.5-omni": (PATCH_SIZE, partial(_in_tokens, side=PATCH_SIZE)),
    "qwen3-omni": (32, partial(_in_tokens, side=32)),
    "gemma4": (48, partial(_largest, side=48, frame=70, still=280)),
}
"""For each family pixels along one token of a picture, and how a recipe's spec is changed for it.

Gemma 4's limits are those of its released processor: 70 tokens for a frame, 280 for a still picture.
"""


def student_of(patch_size: int) -> str | None:
    """The first family whose tokens have this side, or None."""
    return next((name for name, (side, _) in STUDENTS.items() if side == patch_size), None)


def fitting(clip: ClipSpec, patch_size: int) -> ClipSpec:
    """A spec that says nothing of a family, for the one whose tokens have this side; others stay as they are."""
    name = student_of(patch_size)
    return clip if name is None or clip.patch_size == patch_size else STUDENTS[name][1](clip)
