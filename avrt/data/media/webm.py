"""A clip as a browser plays it: the frames at their times and the sound, as WebM (VP8 and Opus)."""

from __future__ import annotations

import io

import numpy as np

from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.media.encode import write_clip

OPUS_RATE = 48_000
FPS = 8


def to_webm(clip: Clip) -> bytes:
    """Encode a clip; a still picture is shown for as long as the sound lasts.

    Raises:
        ValueError: If the clip has neither pictures nor sound.
    """
    if clip.pictures is None and clip.audio is None:
        raise ValueError("nothing to show")
    seconds = 0.0 if clip.audio is None else len(clip.audio) / SAMPLE_RATE
    if clip.seconds_per_frame:
        seconds = max(seconds, clip.seconds_per_frame * len(clip.timestamps))
    shown: list[np.ndarray] = []
    if clip.pictures is not None:
        pictures = clip.pictures.permute(0, 2, 3, 1).contiguous().numpy()
        starts = [*clip.timestamps[1:], seconds] if clip.timestamps else [seconds or 1.0]
        times = np.arange(max(1, round(max(seconds, 1 / FPS) * FPS))) / FPS
        shown = [pictures[min(i, len(pictures) - 1)] for i in np.searchsorted(starts, times, side="right")]
    sound = None if clip.audio is None else clip.audio[None].repeat_interleave(OPUS_RATE // SAMPLE_RATE, 1).numpy()
    buffer = io.BytesIO()
    write_clip(
        buffer,
        shown,
        sound,
        container="webm",
        fps=FPS,
        video_codec="libvpx",
        video_options={"deadline": "realtime", "cpu-used": "8", "b": "600000"},
        rate=OPUS_RATE,
        audio_codec="libopus",
    )
    return buffer.getvalue()
