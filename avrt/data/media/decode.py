"""Decoding media files to the clip that a student gets: frames by their true times, pictures, sound.

FFmpeg reads containers sequentially, through PyAV. A fault in a file becomes a note on how it was repaired, or one
error that names the file. Files that hang or crash FFmpeg are the matter of `avrt.data.media.isolation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import MAX_PIXELS, Clip, ClipSpec, FrameBudget
from avrt.data.media.containers import announced_end, decoded, open_media, prepare
from avrt.data.media.images import seen
from avrt.data.media.orientation import Orientation
from avrt.errors import BadSampleError

_TIME_SLACK = 1e-4
_ASSUMED_RATE = 25.0
_SHORT_SECONDS = 0.5
_RESTART_SECONDS = 0.5
_WIDEST_PIXEL = 10
_COVER = av.stream.Disposition.attached_pic


def decode_video(path: Path, spec: ClipSpec) -> Clip:
    """Decode the frames of a video file, and its sound if it has any.

    Frame i of F is the one shown at i / F of the whole clip's length: the first frame is taken, the last is not; F is
    `spec.frame_count` of the length. A clip with fewer frames repeats some. Frames are turned as the file says, and
    damaged packets are skipped. If the file is a picture, it becomes the clip's still picture. `info` notes all this.

    Raises:
        BadSampleError: If the file cannot be opened or no frame can be decoded.
    """
    with open_media(path) as container:
        if container.format.name.endswith("_pipe"):
            return _picture_in_place_of_video(path, spec)
        timeline = _Timeline.read(container, _video_stream(container, path), path)
    duration = timeline.duration
    count = spec.frame_count(duration)
    targets = [timeline.start + i * duration / count for i in range(count)]
    with open_media(path) as container:  # again, since not every format can seek to its beginning
        stream = _video_stream(container, path)
        shown = _Shown(stream, spec, count)
        picker = _FramePicker(targets, timeline, shown)
        damaged: list[int] = []
        for frame in decoded(container, stream, damaged):
            if not picker.add(frame):
                break
        picked = picker.picked()
        if not picked:
            raise BadSampleError("no frame could be decoded", where=path, remedy="the file is damaged")
    shape = shown.shape
    height, width = shape.size
    for_teachers = [frame.for_teachers for frame in picked if frame.for_teachers is not None]
    clip = Clip(
        frames=torch.stack([frame.picture for frame in picked]),
        timestamps=tuple(round(frame.time - timeline.start, 6) for frame in picked),
        seconds_per_frame=duration / count,
        for_teachers=torch.stack(for_teachers) if for_teachers else None,
        info={"duration": round(duration, 6), "width": width, "height": height, "fps": round(timeline.rate, 6)},
    )
    resized = len({frame.stored_size for frame in picked}) > 1
    spoilt = len({frame.time for frame in picked if frame.corrupt})
    distinct = len(set(clip.timestamps))
    told = {
        f"{len(damaged)} damaged packets skipped": bool(damaged),
        f"{spoilt} of the frames are damaged": bool(spoilt),
        f"only {distinct} distinct frames": distinct < count,
        f"{shape.orientation}, as the file says": bool(str(shape.orientation)),
        f"pixels of {shape.pixel.numerator}:{shape.pixel.denominator}, shown as {width}x{height}": shape.pixel != 1,
        "the size of the pictures changes: bars at the sides keep their proportions": resized,
    }
    notes = [*timeline.notes(), *(note for note, holds in told.items() if holds)]
    try:
        clip.audio = decode_audio(path, spec, start=timeline.start if timeline.stamped else None, notes=notes)
    except BadSampleError as error:
        notes.append(error.what)
    clip.info["notes"] = notes
    return clip


def decode_still(path: Path, spec: ClipSpec, notes: list[str] | None = None) -> Tensor:
    """Decode a picture file, the right way up, to (3, H, W) uint8 at model resolution.

    Pillow reads it, or FFmpeg if Pillow does not know the format or finds it damaged. Of a moving picture the first
    frame is taken.

    Args:
        path: The picture.
        spec: Its size limits.
        notes: Gets a note for each repair.

    Raises:
        BadSampleError: If it is not a readable picture.
    """
    return _still(path, spec, spec.still_budget, [] if notes is None else notes)


def decode_for_teachers(path: Path, spec: ClipSpec, picture: Tensor) -> Tensor | None:
    """Decode a picture file at the size for teachers, (1, 3, H, W) uint8; None if the student's has the same size.

    Args:
        path: The picture.
        spec: Its size limits.
        picture: The picture for the student, from `decode_still`.
    """
    if spec.teacher_budget is None:
        return None
    theirs = _still(path, spec, spec.teacher_budget, [])
    return None if theirs.shape == picture.shape else theirs[None]


def _still(path: Path, spec: ClipSpec, budget: FrameBudget, notes: list[str]) -> Tensor:
    """A picture file as (3, H, W) uint8 within a size limit."""
    try:
        with Image.open(path) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise BadSampleError(f"a picture of {width}x{height}, more than {MAX_PIXELS:,} pixels", where=path)
            if getattr(file, "is_animated", False):
                notes.append("a moving picture: its first frame is used")
            rgb = seen(file, notes)
    except Image.DecompressionBombError:
        raise BadSampleError(f"a picture of more than {MAX_PIXELS:,} pixels", where=path) from None
    except UnidentifiedImageError:
        return _first_frame(path, spec, budget, notes)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        notes.append(f"damaged: {error}")
        return _first_frame(path, spec, budget, notes)
    picture = torch.from_numpy(rgb).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(
        picture[None].float(), spec.size(len(rgb), rgb.shape[1], budget),
        mode="bicubic", antialias=True, align_corners=False,
    )  # fmt: skip
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _first_frame(path: Path, spec: ClipSpec, budget: FrameBudget, notes: list[str]) -> Tensor:
    """The first frame that FFmpeg finds in a file."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        frame = next(decoded(container, stream), None)
        if frame is None:
            raise BadSampleError("not a readable picture", where=path)
        if not container.format.name.endswith("_pipe"):
            notes.append("a moving picture: its first frame is used")
        shape = _Shape.of(frame, stream, square=container.format.name.endswith("_pipe"))
        return shape.to_tensor(frame, *spec.size(*shape.size, budget))


def _picture_in_place_of_video(path: Path, spec: ClipSpec) -> Clip:
    notes = ["a picture, not a video"]
    picture = decode_still(path, spec, notes)
    height, width = picture.shape[-2:]
    theirs = decode_for_teachers(path, spec, picture)
    return Clip(image=picture, for_teachers=theirs, info={"width": width, "height": height, "notes": notes})


def _video_stream(container: av.container.InputContainer, path: Path) -> Any:
    """The file's best video stream, prepared for decoding; cover pictures of music files are none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVER]
    if not streams:
        remedy = "it has only sound" if container.streams.audio else None
        raise BadSampleError("no video stream", where=path, remedy=remedy)
    best: Any = container.streams.best("video")
    stream: Any = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise BadSampleError("its pictures are of an unknown kind", where=path)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise BadSampleError(f"pictures of {width}x{height}, more than {MAX_PIXELS:,} pixels", where=path)
    prepare(stream)
    return stream


@dataclass(frozen=True)
class _Timeline:
    """When each frame of a file is shown, in seconds, read from its packets without decoding.

    Attributes:
        times: Sorted times of all frames.
        stamped: Whether the file has time stamps; otherwise the times follow from the rate.
        rate: Frames a second.
        announced: When the video ends according to the file's header, on the file's clock; 0 if the header is silent.
        restarts: How often its clock jumps back, as in joined recordings.
    """

    times: list[float]
    stamped: bool
    rate: float
    announced: float
    restarts: int = 0

    @classmethod
    def read(cls, container: av.container.InputContainer, stream: Any, path: Path) -> _Timeline:
        """Read the packets of a stream up to the first damage.

        Raises:
            BadSampleError: If there is none.
        """
        times: list[float] = []
        unstamped = 0
        rate = float(stream.average_rate or stream.guessed_rate or _ASSUMED_RATE)
        clock = _Clock(rate)
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is None:
                    unstamped += 1
                else:
                    order = stamp if packet.dts is None else packet.dts  # packets come in decoding order
                    times.append(clock.unwrap(float(stamp * packet.time_base), float(order * packet.time_base)))
        except av.FFmpegError:
            pass  # the packets before the damage are used
        if not times and not unstamped:
            raise BadSampleError("no video packet", where=path, remedy="the file may be truncated")
        stamped = unstamped <= len(times)
        counted = times if stamped else [i / rate for i in range(len(times) + unstamped)]
        return cls(sorted(counted), stamped, rate, announced_end(container, stream), clock.restarts)

    @property
    def start(self) -> float:
        return self.times[0]

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        span, count = self.times[-1] - self.times[0], len(self.times)
        return span + (span / (count - 1) if count > 1 and span > 0 else 1 / self.rate)

    def notes(self) -> list[str]:
        missing = self.announced - self.start - self.duration
        return [
            *([f"its clock restarts {self.restarts} times: the parts follow each other"] if self.restarts else []),
            *([] if self.stamped else [f"no time stamps: {self.rate:.3g} frames a second assumed"]),
            *([f"pictures end {missing:.1f} s before the file says"] if missing > _SHORT_SECONDS else []),
        ]


class _Clock:
    """Keeps times rising where a file's clock jumps back."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._order = self._latest = -math.inf
        self._offset = 0.0
        self.restarts = 0

    def unwrap(self, time: float, order: float) -> float:
        """The time of a frame, with the length of all earlier parts added.

        Args:
            time: When it is shown, on the file's clock.
            order: A time that rises from call to call unless the clock jumps back.
        """
        if order < self._order - _RESTART_SECONDS:
            self._offset = self._latest + 1 / self._rate - time
            self.restarts += 1
        self._order = order
        self._latest = max(self._latest, time + self._offset)
        return time + self._offset


@dataclass(frozen=True)
class _Picked:
    """A picked frame, already resized, since 768 frames at their own size would not fit into memory."""

    picture: Tensor
    for_teachers: Tensor | None
    time: float
    stored_size: tuple[int, int]
    corrupt: bool


class _Shown:
    """Resizes picked frames; the first one decides the shape of all."""

    def __init__(self, stream: Any, spec: ClipSpec, count: int) -> None:
        self._stream, self._spec = stream, spec
        self._budget, self._theirs = spec.frame_budget(count), spec.teacher_budget
        self._shape: _Shape | None = None

    @property
    def shape(self) -> _Shape:
        assert self._shape is not None
        return self._shape

    def __call__(self, frame: av.VideoFrame, time: float) -> _Picked:
        self._shape = self._shape or _Shape.of(frame, self._stream)
        size = self._spec.size(*self._shape.size, self._budget)
        theirs = None if self._theirs is None else self._spec.size(*self._shape.size, self._theirs)
        return _Picked(
            self._shape.to_tensor(frame, *size),
            None if theirs is None or theirs == size else self._shape.to_tensor(frame, *theirs),
            time,
            (frame.width, frame.height),
            frame.is_corrupt,
        )


class _FramePicker:
    """Picks for each target time the last frame shown at or before it, or else the first frame."""

    def __init__(self, targets: list[float], timeline: _Timeline, shown: _Shown) -> None:
        self._targets = targets
        self._assumed = None if timeline.stamped else timeline.times
        self._clock = _Clock(timeline.rate)
        self._count = 0
        self._current: tuple[av.VideoFrame, float] | None = None
        self._picked: list[_Picked] = []
        self._shown = shown

    def add(self, frame: av.VideoFrame) -> bool:
        """Add the next frame; returns whether more are wanted."""
        if self._assumed is not None:
            time = self._assumed[min(self._count, len(self._assumed) - 1)]
        elif frame.time is None:
            return True
        else:
            time = self._clock.unwrap(frame.time, frame.time)
        self._count += 1
        reached = len(self._picked)
        while reached < len(self._targets) and time > self._targets[reached] + _TIME_SLACK:
            reached += 1
        self._pick(reached)
        self._current = (frame, time)
        return len(self._picked) < len(self._targets)

    def _pick(self, reached: int) -> None:
        if self._current is not None and (count := reached - len(self._picked)):
            self._picked += [self._shown(*self._current)] * count

    def picked(self) -> list[_Picked]:
        """A frame for every target; empty if there was no frame."""
        self._pick(len(self._targets))
        return self._picked


@dataclass(frozen=True)
class _Shape:
    """How a stream's frames are shown: their orientation, the width of a pixel by its height, and their size."""

    orientation: Orientation
    pixel: Fraction
    size: tuple[int, int]

    @classmethod
    def of(cls, frame: av.VideoFrame, stream: Any, *, square: bool = False) -> _Shape:
        told = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        believed = told and not square and Fraction(1, _WIDEST_PIXEL) <= told <= _WIDEST_PIXEL
        pixel = Fraction(told) if believed else Fraction(1)
        orientation = Orientation.of(frame)
        height, width = frame.height, max(1, round(frame.width * pixel))
        return cls(orientation, pixel, (width, height) if orientation.transposed else (height, width))

    def to_tensor(self, frame: av.VideoFrame, height: int, width: int) -> Tensor:
        """(3, H, W) uint8; a frame with other proportions than the first one gets bars at its sides."""
        if frame.width * frame.height > MAX_PIXELS:
            raise BadSampleError(f"a picture of {frame.width}x{frame.height}, more than {MAX_PIXELS:,} pixels")
        own_height, own_width = frame.height, max(1, round(frame.width * self.pixel))
        if self.orientation.transposed:
            own_height, own_width = own_width, own_height
        down, across = height, width
        if own_height * self.size[1] != own_width * self.size[0]:
            scale = min(height / own_height, width / own_width)
            down, across = max(1, round(own_height * scale)), max(1, round(own_width * scale))
        stored = (across, down) if self.orientation.transposed else (down, across)
        rgb = frame.reformat(height=stored[0], width=stored[1], format="rgb24", interpolation="BICUBIC").to_ndarray()
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - down) // 2, (width - across) // 2
        canvas[top : top + down, left : left + across] = self.orientation.apply(rgb)
        return torch.from_numpy(canvas).permute(2, 0, 1)
