"""What the clips of the nano recipes show and play: six things and six sounds, drawn and synthesized from a seed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from avrt.data.media.clip_spec import FrameBudget
from avrt.data.media.encode import write_clip
from avrt.files import write_whole

THINGS = {
    "red ball": (220, 40, 40),
    "green box": (40, 200, 60),
    "blue triangle": (50, 80, 230),
    "yellow star": (235, 220, 40),
    "white ring": (240, 240, 240),
    "purple cross": (170, 50, 200),
}
SOUNDS = ("low hum", "high whistle", "rising siren", "steady hiss", "quick clicks", "slow warble")
SPLITS = ("train", "val", "test")
SECONDS, FPS, SIDE, RATE = 2.0, 8, 64, 44_100

SIZE = FrameBudget(56 * 56, 56 * 56)


def write_clip_of(shown: Sequence[np.ndarray], heard: np.ndarray | None, path: Path) -> None:
    """Write frames and sound as mp4: H.264 at 64x64 and 8 fps, FLAC stereo at 44.1 kHz; None for a silent film.

    AAC, which most films have, takes seven times as long to encode as FLAC, and most of the time of making a clip.
    """
    clip = io.BytesIO()
    # macroblock-tree rate control would give another file in each run on the same machine
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    sound = None if heard is None else np.stack([heard, heard])
    write_clip(clip, shown, sound, container="mp4", fps=FPS, video_options=options, rate=RATE, audio_codec="flac")
    write_whole(path, clip.getvalue())


def write_sound(heard: np.ndarray, path: Path) -> None:
    """Write sound as FLAC at 44.1 kHz."""
    stream = io.BytesIO()
    soundfile.write(stream, heard, RATE, format="FLAC")
    write_whole(path, stream.getvalue())


def pictures(thing: str, rng: np.random.Generator, seconds: float = SECONDS) -> Iterator[np.ndarray]:
    """Frames (64, 64, 3) uint8 of a thing drifting over a dark background, 8 a second."""
    background = rng.integers(0, 50)
    size = rng.uniform(13, 19)
    start, drift = rng.uniform(24, 40, 2), rng.uniform(-8, 8, 2)
    count = int(seconds * FPS)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for i in range(count):
        cy, cx = start + drift * i / count
        mask = _shape(thing, (y - cy) / size, (x - cx) / size)
        noise = rng.integers(0, 12, (SIDE, SIDE, 1))
        picture = np.where(mask[..., None], np.array(THINGS[thing]), background) + noise
        yield picture.clip(0, 255).astype(np.uint8)


def _shape(thing: str, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The mask of a thing of radius 1, in coordinates relative to its centre."""
    radius = np.hypot(u, v)
    masks = {
        "ball": radius < 1,
        "box": np.maximum(abs(u), abs(v)) < 0.85,
        "triangle": (v < 0.8) & (v > 2 * abs(u) - 1),
        "star": radius < 0.6 + 0.4 * np.cos(5 * np.arctan2(u, -v)),
        "ring": (radius < 1) & (radius > 0.55),
        "cross": (np.minimum(abs(u), abs(v)) < 0.3) & (radius < 1.1),
    }
    return np.asarray(masks[thing.split()[-1]])


def wave(sound: str, rng: np.random.Generator, seconds: float = SECONDS) -> np.ndarray:
    """(S,) float32 in [-1, 1] at 44.1 kHz: the waveform of a sound."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch, phase = rng.uniform(0.9, 1.1), rng.uniform(0, 2 * np.pi)
    match sound:
        case "low hum":
            heard = sum(np.sin(2 * np.pi * 110 * pitch * k * t + phase) / k for k in (1, 2, 3)) / 1.8
        case "high whistle":
            heard = np.sin(2 * np.pi * 2500 * pitch * t + phase)
        case "rising siren":
            heard = np.sin(2 * np.pi * pitch * (400 * t + 300 * t**2) + phase)
        case "steady hiss":
            heard = rng.uniform(-1, 1, t.size)
        case "quick clicks":
            heard = np.sin(2 * np.pi * 1200 * pitch * t) * ((t * 8 + phase) % 1 < 0.08)
        case _:
            heard = np.sin(2 * np.pi * 700 * pitch * t + 25 * np.sin(2 * np.pi * 3 * t + phase))
    return np.asarray(rng.uniform(0.3, 0.8) * heard, dtype=np.float32)
