"""Opening media files by their content, from a list of allowed formats, and decoding past damaged packets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import av

from avrt.data.media.clip_spec import MAX_PIXELS
from avrt.errors import BadSampleError

FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,nut,dv,rm,mxf,gif,apng,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,jpegxl_pipe,heif,avif,"
    "ogg,wav,w64,aiff,au,caf,flac,mp3,aac,ac3,eac3,amr,wv,ape,tta,mpc,opus"
)
"""Formats that FFmpeg may open. Playlists are left out, since they make it open other files and addresses."""

_HEAD_BYTES = 1 << 18
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class _Nameless:
    """A file without its name, which FFmpeg could read as an address, a pattern or a hint at the format."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def open_media(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a media file for reading.

    Raises:
        BadSampleError: If it is missing or empty, or its format is not allowed.
    """
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise BadSampleError(f"cannot be opened: {error.strerror}", where=path) from None
    with file:
        if size == 0:
            raise BadSampleError("is empty", where=path)
        tiled = _is_tiled(file.read(_HEAD_BYTES))
        file.seek(0)
        if tiled:
            raise BadSampleError(
                "HEIF pictures made of tiles are not supported", where=path, remedy="save it as JPEG or PNG"
            )
        try:
            container = av.open(
                _Nameless(file),
                mode="r",
                metadata_errors="replace",
                buffer_size=1 << 18,
                options={"format_whitelist": FORMATS, "fflags": "+genpts"},
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise BadSampleError(f"cannot be opened: {_reason(error)}", where=path) from None
        with container:
            yield container


def prepare(stream: Any) -> None:
    """Bound what a stream's decoder allocates, and use one thread, since there is one process per core."""
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.codec_context.thread_count = 1


def decoded(container: av.container.InputContainer, stream: Any, damaged: list[int] | None = None) -> Iterator[Any]:
    """Frames of one stream in order, skipping packets that cannot be decoded.

    Args:
        container: The open file.
        stream: One of its streams.
        damaged: Gets an entry for each skipped packet.
    """
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


def announced_end(container: av.container.InputContainer, stream: Any) -> float:
    """When a stream ends according to the file's header, in seconds on the file's clock; 0 if the header is silent."""
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if told := _CLOCK.fullmatch(stream.metadata.get("DURATION", "")):  # in Matroska an end, not a length
        hours, minutes, seconds = (float(part) for part in told.groups())
        return hours * 3600 + minutes * 60 + seconds
    if not container.duration:
        return 0.0
    begins = 0 if "matroska" in container.format.name else container.start_time or 0
    return (begins + container.duration) / av.time_base


def _is_tiled(head: bytes) -> bool:
    """Whether a file is a HEIF picture made of tiles, of which FFmpeg decodes only one."""
    return head[4:8] == b"ftyp" and any(
        head[start + 4 : start + 8] == b"infe" and b"grid" in head[start + 8 : start + 24]
        for start in _boxes(head, b"infe")
    )


def _boxes(data: bytes, kind: bytes) -> Iterator[int]:
    """Where boxes of a kind begin."""
    at = data.find(kind)
    while at >= 4:
        yield at - 4
        at = data.find(kind, at + 4)


def _reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, av.FFmpegError) else str(error)
