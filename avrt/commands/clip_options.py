"""The options of `avrt shards` for what is taken from each clip; the recipe gives their defaults."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from avrt.data.media.clip_spec import STILLS, ClipSpec, FrameBudget
from avrt.data.media.student_frames import STUDENTS, student_of
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
    student: Any = Literal[tuple(STUDENTS)] | None
    size, still = clip.budget, clip.still_budget
    add = parser.add_argument
    # both default to None, so that the one that is given replaces what the recipe takes
    number, rate = (f" (default: {n})" if use else "" for n, use in ((clip.frames, not clip.fps), (clip.fps, clip.fps)))
    add("--frames", type=PositiveInt | None, default=None, help=f"frames of a video, evenly spaced by time{number}")
    add("--fps", type=PositiveFloat | None, default=None, help=f"frames a second in place of a fixed number{rate}")
    add("--max_frames", type=PositiveInt, default=clip.max_frames, help="most frames that --fps may give")
    add("--audio_seconds", type=whole, default=sound, help="seconds of sound from the beginning, or whole")
    add(
        "--student",
        type=student,
        default=None,
        help="the model family that reads the shards: sizes of pictures are its own unless given (default: "
        f"{student_of(clip.patch_size)})",
    )
    # None by default, so that those that are given win over the student's
    for name, what, own in (
        ("min_pixels", "smallest frame of a video, in pixels", size.min_pixels),
        ("max_pixels", "largest frame of a video, in pixels", size.max_pixels),
        ("still_min_pixels", "smallest still picture, in pixels", still.min_pixels),
        ("still_max_pixels", "largest still picture, in pixels", still.max_pixels),
        ("patch_size", "the model's token of a picture, in pixels", clip.patch_size),
        ("total_pixels", "limit for all frames of a video together", clip.total_pixels or "none"),
    ):
        add(f"--{name}", type=PositiveInt | None, default=None, help=f"{what} (default: {own})")
    theirs = None if clip.teacher_budget is None else clip.teacher_budget.max_pixels
    add("--teacher_max_pixels", type=PositiveInt | None, default=theirs, help="also store such pictures for teachers")


def clip_spec(options: Namespace, clip: ClipSpec) -> ClipSpec:
    """The `ClipSpec` that the options describe.

    Args:
        options: The parsed options.
        clip: The recipe's own spec, for options that are not given.

    Raises:
        AvrtError: If no clip can satisfy the options.
    """
    if options.frames is not None and options.fps is not None:
        raise AvrtError("give only one of them", where="--frames and --fps", remedy="--max_frames limits --fps")
    asked = options.frames is not None or options.fps is not None
    whole, theirs = options.audio_seconds in (None, WHOLE), options.teacher_max_pixels
    own = clip if options.student is None else STUDENTS[options.student].spec_for(clip)
    least = [name for name in ("min_pixels", "still_min_pixels") if getattr(options, name) is not None]
    if least and own.resize == "largest":
        raise AvrtError(
            f"{options.student or student_of(own.patch_size)} has no smallest picture: each is as large as its most "
            "tokens allow",
            where=f"--{least[0]}",
            remedy="leave it out",
        )
    try:
        return ClipSpec(
            frames=options.frames or clip.frames,
            fps=options.fps if asked else clip.fps,
            max_frames=options.max_frames,
            audio_seconds=None if whole else float(options.audio_seconds),
            budget=_given(own.budget, options.min_pixels, options.max_pixels),
            still_budget=_given(own.still_budget, options.still_min_pixels, options.still_max_pixels),
            total_pixels=options.total_pixels or own.total_pixels,
            teacher_budget=None if theirs is None else FrameBudget(min(STILLS.min_pixels, theirs), theirs),
            patch_size=options.patch_size or own.patch_size,
            resize=own.resize,
        )
    except ValueError as error:
        raise AvrtError(str(error), where="options of the clip") from None


def _given(budget: FrameBudget, least: int | None, most: int | None) -> FrameBudget:
    """A budget with the limits that are given.

    Raises:
        ValueError: If no picture can satisfy them.
    """
    return FrameBudget(least or budget.min_pixels, most or budget.max_pixels)
