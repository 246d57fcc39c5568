"""From media files to the clip a student sees: a few frames with their times, and the first seconds of sound.

Containers are decoded sequentially by PyAV, sound is resampled by torchaudio, FLAC is soundfile's job and JPEG
torchvision's; sound is 16 kHz mono float32.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor
from torchaudio.functional import resample
from torchvision.io import ImageReadMode, decode_image, decode_jpeg, encode_jpeg
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from avrt.errors import BadSampleError

SAMPLE_RATE = 16_000
PATCH_FACTOR = 28
MIN_AUDIO_SECONDS = 0.1
_TIME_SLACK = 1e-4


@dataclass(frozen=True)
class FrameBudget:
    """How large a frame may be; the model's own resize rule picks the size within it.

    Attributes:
        min_pixels: Smaller frames are scaled up (the released processor's minimum by default).
        max_pixels: Larger frames are scaled down.
    """

    min_pixels: int = 128 * PATCH_FACTOR**2
    max_pixels: int = 256 * PATCH_FACTOR**2

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels, both multiples of 28, that the model's resize rule gives."""
        try:
            return smart_resize(height, width, PATCH_FACTOR, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise BadSampleError(f"frames of {width}x{height} cannot be resized: {error}") from None


@dataclass(frozen=True)
class ClipSpec:
    """What is taken from a clip.

    Attributes:
        frames: Number of frames, uniformly spaced by time over the whole clip.
        audio_seconds: Length of the sound taken from its beginning.
        budget: Frame size rule.
    """

    frames: int = 8
    audio_seconds: float = 10.0
    budget: FrameBudget = field(default_factory=FrameBudget)

    def __post_init__(self) -> None:
        """Refuse numbers that no clip can satisfy."""
        if self.frames < 1 or self.audio_seconds < MIN_AUDIO_SECONDS:
            raise ValueError(f"needs frames >= 1 and audio_seconds >= {MIN_AUDIO_SECONDS}")


@dataclass
class Clip:
    """Decoded media of one sample.

    Attributes:
        frames: (F, 3, H, W) uint8 video frames, or None.
        timestamps: The F true presentation times in seconds from the clip's start.
        seconds_per_frame: Spacing of the uniform grid that the frames were picked on (clip length / F).
        image: (3, H, W) uint8 still picture, or None.
        audio: (S,) float32 mono sound at 16 kHz, or None.
        info: What the source was: duration, width, height, fps, and notes on what had to be worked around.
    """

    frames: Tensor | None = None
    timestamps: tuple[float, ...] = ()
    seconds_per_frame: float | None = None
    image: Tensor | None = None
    audio: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def part(self, senses: Literal["both", "sight", "sound", "none"], *, blank: bool = False) -> Clip:
        """What some senses take in of the clip.

        Args:
            senses: `sight` is the clip without its sound, `sound` nothing but its sound, `none` nothing at all.
            blank: Put black pictures and silence of the same size in the place of what is taken away.
        """
        part = replace(self)
        if senses in ("sight", "none") and self.audio is not None:
            part.audio = torch.zeros_like(self.audio) if blank else None
        if senses in ("sound", "none"):
            part.frames, part.image = (
                torch.zeros_like(picture) if blank and picture is not None else None
                for picture in (self.frames, self.image)
            )
            if part.frames is None:
                part.timestamps, part.seconds_per_frame = (), None
        return part


def decode_video(path: Path, spec: ClipSpec) -> Clip:
    """Decode frames and, where there is any, sound of a video file.

    Frame i of F is the one shown at i / F of the clip's length, so that it starts the stretch of time which the model's
    temporal position i stands for. A clip with fewer frames repeats some. Damaged packets are skipped and noted.

    Raises:
        BadSampleError: If the file cannot be opened or holds no decodable picture.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise BadSampleError("no video stream", where=path)
        stream = container.streams.video[0]
        times = _presentation_times(container, stream)
        if not times:
            raise BadSampleError("no video packet with a time stamp", where=path, remedy="the file may be truncated")
        spacing = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / float(stream.average_rate or 1)
        duration = times[-1] - times[0] + spacing
        targets = [times[0] + i * duration / spec.frames for i in range(spec.frames)]
        container.seek(0)
        picked, skipped = _pick_frames(container, stream, targets)
        if not picked:
            raise BadSampleError("no frame could be decoded", where=path, remedy="the file is damaged")
        notes = [f"{skipped} damaged packets skipped"] if skipped else []
        distinct = len({frame.pts for frame in picked})
        if distinct < spec.frames:
            notes.append(f"only {distinct} distinct frames")
        height, width = spec.budget.size(picked[0].height, picked[0].width)
        frames = torch.stack([_to_tensor(frame, height, width) for frame in picked])
        clip = Clip(
            frames=frames,
            timestamps=tuple(round(float(frame.time or 0.0) - times[0], 6) for frame in picked),
            seconds_per_frame=duration / spec.frames,
            info={
                "duration": round(duration, 6),
                "width": picked[0].width,
                "height": picked[0].height,
                "fps": round(float(stream.average_rate or 0), 6),
            },
        )
    try:
        clip.audio = decode_audio(path, spec, start=times[0])
    except BadSampleError as error:
        notes.append(error.what)
    clip.info["notes"] = notes
    return clip


def decode_audio(path: Path, spec: ClipSpec, start: float | None = None) -> Tensor:
    """Decode the first seconds of a file's sound: the mean of its channels, resampled to 16 kHz.

    Args:
        path: Any container or audio file.
        spec: How many seconds.
        start: Time of the clip's beginning on the file's clock, in seconds; by default the sound's own beginning.

    Returns:
        (S,) float32. Sound that begins after `start` is preceded by silence, so that picture and sound stay aligned.

    Raises:
        BadSampleError: If there is no sound, or less than 0.1 s of it.
    """
    pieces: list[np.ndarray] = []
    rate, delay, have = SAMPLE_RATE, 0.0, 0
    with _open(path) as container:
        if not container.streams.audio:
            raise BadSampleError("no audio stream", where=path)
        stream = container.streams.audio[0]
        to_float: AudioResampler | None = None
        for frame in _decoded(container, stream):
            if to_float is None:
                rate = frame.sample_rate
                to_float = AudioResampler(format="fltp", layout=frame.layout, rate=rate)
                if start is not None and frame.time is not None:
                    delay = frame.time - start
            for planes in to_float.resample(frame):
                pieces.append(planes.to_ndarray().mean(axis=0))
                have += pieces[-1].size
            # a little more than is asked for, so that the resampling filter sees what follows
            if have / rate + delay > spec.audio_seconds + 0.1:
                break
    native = torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, np.float32))
    skip = round(max(0.0, -delay) * rate)
    sound = resample(native[skip:], rate, SAMPLE_RATE) if len(native) > skip else native[:0]
    silence = torch.zeros(round(max(0.0, delay) * SAMPLE_RATE))
    sound = torch.cat([silence, sound])[: round(spec.audio_seconds * SAMPLE_RATE)]
    if len(sound) < MIN_AUDIO_SECONDS * SAMPLE_RATE:
        raise BadSampleError(f"only {len(sound) / SAMPLE_RATE:.2f} s of sound", where=path)
    return sound.contiguous()


def decode_still(path: Path, spec: ClipSpec) -> Tensor:
    """Decode a picture file to (3, H, W) uint8 at model resolution.

    Raises:
        BadSampleError: If it is no readable picture.
    """
    try:
        picture = decode_image(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), ImageReadMode.RGB)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadSampleError(f"not a readable picture: {error}", where=path) from None
    height, width = spec.budget.size(*picture.shape[-2:])
    resized = torch.nn.functional.interpolate(
        picture[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def to_jpeg(picture: Tensor, quality: int = 95) -> bytes:
    """Compress a (3, H, W) uint8 picture."""
    return encode_jpeg(picture.contiguous(), quality).numpy().tobytes()


def from_jpeg(data: bytes) -> Tensor:
    """Decompress to (3, H, W) uint8.

    Raises:
        BadSampleError: If the bytes are no JPEG.
    """
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        raise BadSampleError(f"not a JPEG: {error}") from None


def to_flac(audio: Tensor) -> bytes:
    """Compress (S,) float32 16 kHz sound to 16-bit FLAC, clipping what exceeds full scale."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.clamp(-1.0, 1.0).numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def from_flac(data: bytes) -> Tensor:
    """Decompress to (S,) float32 at 16 kHz.

    Raises:
        BadSampleError: If the bytes are no 16 kHz mono FLAC.
    """
    try:
        sound, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadSampleError(f"not a FLAC: {error}") from None
    if rate != SAMPLE_RATE or sound.shape[1] != 1:
        raise BadSampleError(f"sound is {rate} Hz with {sound.shape[1]} channels, needs 16000 Hz mono")
    return torch.from_numpy(sound[:, 0])


def _open(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path), mode="r", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadSampleError(f"cannot be opened: {error}", where=path) from None


def _presentation_times(container: av.container.InputContainer, stream: av.VideoStream) -> list[float]:
    """Sorted times in seconds of every picture in the file, from its packets alone."""
    times = []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size:
                times.append(float(packet.pts * packet.time_base))
    except av.FFmpegError:
        pass  # what was read until the damage is what there is
    return sorted(times)


def _decoded(container: av.container.InputContainer, stream: Any, damaged: list[int] | None = None) -> Iterator[Any]:
    """Frames of one stream in order, passing over packets that cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if damaged is not None:
                damaged.append(1)
            continue
        yield from frames


def _pick_frames(
    container: av.container.InputContainer, stream: av.VideoStream, targets: list[float]
) -> tuple[list[av.VideoFrame], int]:
    """For each target time the last frame shown at or before it (the first one for earlier targets)."""
    picked: list[av.VideoFrame] = []
    damaged: list[int] = []
    current: av.VideoFrame | None = None
    for frame in _decoded(container, stream, damaged):
        if frame.time is None:
            continue
        while current is not None and len(picked) < len(targets) and frame.time > targets[len(picked)] + _TIME_SLACK:
            picked.append(current)
        current = frame
        if len(picked) == len(targets):
            break
    if current is not None:
        picked.extend([current] * (len(targets) - len(picked)))
    return picked, len(damaged)


def _to_tensor(frame: av.VideoFrame, height: int, width: int) -> Tensor:
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return torch.from_numpy(rgb).permute(2, 0, 1)
