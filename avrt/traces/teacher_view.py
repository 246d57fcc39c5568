"""The part of a clip that teachers get: the larger images stored for them, at most 8 frames, 10 s of audio.

Members that need no change keep their bytes, so that stored calls of earlier runs still match.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import soundfile
from PIL import Image

from avrt.data.shards.reader import FOR_TEACHERS
from avrt.errors import AvrtError

_SIDE = 28
"""Patch size in pixels: vision-language models divide images into squares of this side, or of half of it."""


@dataclass(frozen=True)
class ShownOptions:
    """Limits of what teachers get of a clip.

    Attributes:
        audio_seconds: Seconds of audio from the beginning; None for all. AVRT's teachers got 10 s.
        max_frames: Most frames, evenly spaced; None for all. AVRT's teachers got 8.
        max_pixels: Most pixels of an image; larger ones are scaled down. None keeps the stored size.
    """

    audio_seconds: float | None = 10.0
    max_frames: int | None = 8
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that leave nothing."""
        least = {"audio_seconds": 0.1, "max_frames": 1, "max_pixels": _SIDE**2}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise AvrtError(f"is {value}, needs at least {bound}", where=f"shown.{name}")


def teacher_view(raw: Mapping[str, Any], options: ShownOptions) -> dict[str, Any]:
    """A sample's members as teachers get them; damaged ones stay as they are, and fail their sample later.

    Args:
        raw: What `ShardSet.read` returns with the members for teachers.
        options: The limits.
    """
    larger = {name.removeprefix(FOR_TEACHERS): data for name, data in raw.items() if name.startswith(FOR_TEACHERS)}
    members = {name: data for name, data in raw.items() if not name.startswith(FOR_TEACHERS)}
    members.update({name: data for name, data in larger.items() if name in members})
    if options.max_frames is not None:
        members = _fewer_frames(members, options.max_frames)
    if options.max_pixels is not None:
        for name in [name for name in members if name.endswith(".jpg")]:
            members[name] = _smaller(members[name], options.max_pixels)
    if options.audio_seconds is not None and "flac" in members:
        members["flac"] = _shorter(members["flac"], options.audio_seconds)
    return members


def _fewer_frames(members: dict[str, Any], most: int) -> dict[str, Any]:
    """Keep `most` frames: frame i is the one at i / most of the clip, as in shards made with `most` frames."""
    frames = [f"{i}.jpg" for i in range(len(members)) if f"{i}.jpg" in members]
    try:
        info = json.loads(members["clip.json"])
        if len(frames) <= most or len(info["timestamps"]) != len(frames):
            return members
        chosen = [i * len(frames) // most for i in range(most)]
        spacing = info["seconds_per_frame"] * len(frames) / most
        kept_info = {**info, "timestamps": [info["timestamps"][i] for i in chosen], "seconds_per_frame": spacing}
    except (KeyError, ValueError, TypeError):
        return members
    kept = {name: data for name, data in members.items() if name not in frames}
    kept["clip.json"] = json.dumps(kept_info, sort_keys=True).encode()
    return {**kept, **{f"{place}.jpg": members[frames[i]] for place, i in enumerate(chosen)}}


def _smaller(jpeg: bytes, most: int) -> bytes:
    """Scale a JPEG of more than `most` pixels down to whole patches."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            width, height = image.size
            if width * height <= most:
                return jpeg
            scale = math.sqrt(most / (width * height))
            size = [max(_SIDE, int(side * scale) // _SIDE * _SIDE) for side in (width, height)]
            buffer = io.BytesIO()
            image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return jpeg
    return buffer.getvalue()


def _shorter(flac: bytes, seconds: float) -> bytes:
    """The first `seconds` of a FLAC."""
    try:
        with soundfile.SoundFile(io.BytesIO(flac)) as file:
            wanted = round(seconds * file.samplerate)
            if file.frames <= wanted:
                return flac
            buffer = io.BytesIO()
            soundfile.write(buffer, file.read(wanted, dtype="int16"), file.samplerate, format="FLAC", subtype="PCM_16")
    except (soundfile.LibsndfileError, RuntimeError):
        return flac
    return buffer.getvalue()
