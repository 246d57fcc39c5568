"""Writing a clip as a media file: pictures and sound through the codecs that PyAV brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np

_SAMPLES = 1024
"""Samples of sound that are handed to the encoder at a time; it regroups them as its codec wants."""


def write_clip(
    target: Path | BinaryIO,
    pictures: Sequence[np.ndarray],
    sound: np.ndarray | None,
    *,
    container: str | None = None,
    fps: int | Fraction = 8,
    video_codec: str = "libx264",
    video_options: Mapping[str, str] | None = None,
    rate: int = 48_000,
    audio_codec: str = "aac",
) -> None:
    """Write pictures, sound or both to a media file.

    Args:
        target: A file to write, or an open one.
        pictures: (H, W, 3) uint8, all of one size; odd sides are scaled down by one pixel. May be empty.
        sound: (channels, S) float32 with one channel or two, or None.
        container: Format of the file, such as `webm`; by default the format that its name tells.
        fps: Pictures a second.
        video_codec: Encoder of the pictures.
        video_options: Options of that encoder.
        rate: Sample rate of the sound in Hz.
        audio_codec: Encoder of the sound.
    """
    with av.open(str(target) if isinstance(target, Path) else target, "w", format=container) as out:
        streams: list[av.VideoStream | av.AudioStream] = []
        if len(pictures):
            video = cast(av.VideoStream, out.add_stream(video_codec, rate=fps, options=dict(video_options or {})))
            video.height, video.width = (side // 2 * 2 for side in pictures[0].shape[:2])
            video.pix_fmt = "yuv420p"
            streams.append(video)
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            audio = cast(av.AudioStream, out.add_stream(audio_codec, rate=rate, layout=layout))
            streams.append(audio)
        for picture in pictures:
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if sound is not None:
            for start in range(0, sound.shape[1], _SAMPLES):
                piece = np.ascontiguousarray(sound[:, start : start + _SAMPLES])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                out.mux(audio.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
