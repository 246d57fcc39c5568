"""The options of `avrt shards` that say what is taken from each clip; a recipe gives their defaults."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from avrt.data.media.clip import STILLS, ClipSpec, FrameBudget
from avrt.errors import AvrtError

WHOLE = "whole"


def add_clip_options(parser: ArgumentParser, clip: ClipSpec) -> None:
    """Add one option for each field of a `ClipSpec`.

    Args:
        parser: Gets the options.
        clip: The defaults.
    """
    sound: Any = WHOLE if clip.audio_seconds is None else clip.audio_seconds
    whole: Any = PositiveFloat | Literal["whole"] | None
    size, still = clip.budget, clip.still_budget
    add = parser.add_argument
    # Both are None until somebody asks for one of them, which then counts whatever the recipe takes.
    number, rate = (f" (default: {n})" if use else "" for n, use in ((clip.frames, not clip.fps), (clip.fps, clip.fps)))
    add("--frames", type=PositiveInt | None, default=None, help=f"frames per video, spaced by time{number}")
    add("--fps", type=PositiveFloat | None, default=None, help=f"frames a second, in place of a number{rate}")
    add("--max_frames", type=PositiveInt, default=clip.max_frames, help="with --fps, at most so many frames")
    add("--audio_seconds", type=whole, default=sound, help="seconds of sound from the beginning, or whole")
    add("--min_pixels", type=PositiveInt, default=size.min_pixels, help="smallest frame of a video, in pixels")
    add("--max_pixels", type=PositiveInt, default=size.max_pixels, help="largest frame of a video, in pixels")
    add("--total_pixels", type=PositiveInt | None, default=clip.total_pixels, help="784 times a video's most tokens")
    add("--still_min_pixels", type=PositiveInt, default=still.min_pixels, help="smallest still picture, in pixels")
    add("--still_max_pixels", type=PositiveInt, default=still.max_pixels, help="largest still picture, in pixels")
    theirs = None if clip.teacher_budget is None else clip.teacher_budget.max_pixels
    add(
        "--teacher_max_pixels",
        type=PositiveInt | None,
        default=theirs,
        help="store pictures for teachers too, so large",
    )


def clip_spec(options: Namespace, clip: ClipSpec) -> ClipSpec:
    """What the options ask for.

    Args:
        options: The parsed options.
        clip: The recipe's own choice, for what nobody asked for.

    Raises:
        AvrtError: If no clip can satisfy them.
    """
    if options.frames is not None and options.fps is not None:
        raise AvrtError("both were given", where="--frames and --fps", remedy="give one; --max_frames bounds --fps")
    asked = options.frames is not None or options.fps is not None
    whole, theirs = options.audio_seconds in (None, WHOLE), options.teacher_max_pixels
    try:
        return ClipSpec(
            frames=options.frames or clip.frames,
            fps=options.fps if asked else clip.fps,
            max_frames=options.max_frames,
            audio_seconds=None if whole else float(options.audio_seconds),
            budget=FrameBudget(options.min_pixels, options.max_pixels),
            still_budget=FrameBudget(options.still_min_pixels, options.still_max_pixels),
            total_pixels=options.total_pixels,
            teacher_budget=None if theirs is None else FrameBudget(min(STILLS.min_pixels, theirs), theirs),
        )
    except ValueError as error:
        raise AvrtError(str(error), where="the clip's options") from None
