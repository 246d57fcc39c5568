"""A clip as a browser plays it: the frames at their times and the sound, as WebM (VP8 and Opus)."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

from avrt.data.media.clip import SAMPLE_RATE, Clip

OPUS_RATE = 48_000
OPUS_FRAME = 960
FPS = 8


def to_webm(clip: Clip) -> bytes:
    """Encode a clip; a picture is shown for as long as its sound lasts.

    Raises:
        ValueError: If the clip has neither picture nor sound.
    """
    frames = clip.frames if clip.frames is not None else None if clip.image is None else clip.image[None]
    if frames is None and clip.audio is None:
        raise ValueError("nothing to show")
    seconds = 0.0 if clip.audio is None else len(clip.audio) / SAMPLE_RATE
    if clip.seconds_per_frame:
        seconds = max(seconds, clip.seconds_per_frame * len(clip.timestamps))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        streams: list[av.VideoStream | av.AudioStream] = []
        if frames is not None:
            video = container.add_stream("libvpx", rate=FPS, options={"deadline": "realtime", "cpu-used": "8"})
            video.height, video.width = (int(side) // 2 * 2 for side in frames.shape[-2:])
            video.pix_fmt, video.bit_rate = "yuv420p", 600_000
            streams.append(video)
        if clip.audio is not None:
            sound = container.add_stream("libopus", rate=OPUS_RATE, layout="mono")
            streams.append(sound)
        if frames is not None:
            starts = [*clip.timestamps[1:], seconds] if clip.timestamps else [seconds or 1.0]
            count = max(1, round(max(seconds, 1 / FPS) * FPS))
            for i in range(count):
                shown = min(int(np.searchsorted(starts, i / FPS, side="right")), len(frames) - 1)
                picture = av.VideoFrame.from_ndarray(
                    frames[shown].permute(1, 2, 0).contiguous().numpy(), format="rgb24"
                )
                picture.pts, picture.time_base = i, Fraction(1, FPS)
                container.mux(video.encode(picture))
        if clip.audio is not None:
            wave = np.repeat(clip.audio.numpy(), OPUS_RATE // SAMPLE_RATE)[None].astype(np.float32)
            for start in range(0, wave.shape[1], OPUS_FRAME):
                piece = np.ascontiguousarray(wave[:, start : start + OPUS_FRAME])
                heard = av.AudioFrame.from_ndarray(piece, format="flt", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = OPUS_RATE, start, Fraction(1, OPUS_RATE)
                container.mux(sound.encode(heard))
        for stream in streams:
            container.mux(stream.encode(None))
    return buffer.getvalue()
