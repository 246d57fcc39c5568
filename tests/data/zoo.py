"""A zoo of odd and broken media files, made from one sound clip, with what is expected to become of each.

python -m tests.data.zoo CLIP.mp4      # prints the outcome table of docs/data.md
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from PIL import Image

from avrt.data.media.clip import Clip, ClipSpec, FrameBudget
from avrt.data.media.codecs import to_jpeg
from avrt.data.media.decode import decode_video
from avrt.data.sample import Modality
from avrt.data.shards.conversion import load_clip
from avrt.errors import BadSampleError

SPEC = ClipSpec(budget=FrameBudget(56 * 56, 224 * 224))
USED, REPAIRED, REFUSED = "used", "repaired", "refused"


@dataclass(frozen=True)
class Animal:
    """One file of the zoo.

    Attributes:
        file: Its name.
        what: What is odd about it.
        outcome: `used` without a word, `repaired` with a note, or `refused`.
        says: Part of the note or message.
        make: Writes it, given a sound clip's path and its own.
        kind: The modality that it is given as.
    """

    file: str
    what: str
    outcome: str
    says: str
    make: Callable[[Path, Path], object]
    kind: Modality = Modality.VIDEO


def outcome_of(path: Path, kind: Modality, spec: ClipSpec) -> tuple[str, str, Clip | None]:
    """What becomes of a file: outcome, notes or message, and the clip."""
    try:
        clip = load_clip({kind: path}, spec)
    except BadSampleError as error:
        return REFUSED, error.what, None
    notes = "; ".join(clip.info.get("notes", ()))
    return (REPAIRED if notes else USED), notes, clip


@lru_cache(maxsize=4)
def _decoded(source: Path, seconds: float) -> Clip:
    """Ten frames a second of the whole clip, squeezed into the seconds wanted, and as much sound."""
    spec = ClipSpec(frames=round(10 * seconds), audio_seconds=seconds, budget=FrameBudget(56 * 56, 224 * 224))
    return decode_video(source, spec)


def transcode(
    source: Path,
    target: Path,
    *,
    container: str | None = None,
    codec: str = "libx264",
    size: tuple[int, int] | None = None,
    pixels: str = "yuv420p",
    times: Callable[[int], float] | None = None,
    turn: int = 0,
    sounds: tuple[tuple[str, int, str], ...] = (("aac", 44_100, "stereo"),),
    sound_delay: float = 0.0,
    seconds: float = 2.0,
    options: dict[str, str] | None = None,
) -> None:
    """Write a clip again, shorter and oddly.

    Args:
        source: A sound clip.
        target: Where to.
        container: Format, where the name does not tell.
        codec: Of the pictures; empty for none.
        size: Width and height.
        pixels: Pixel format.
        times: Seconds at which each frame is shown; 10 a second by default.
        turn: Degrees that a player has to turn the picture by.
        sounds: Codec, rate and layout of each sound track.
        sound_delay: Seconds by which the sound begins late.
        seconds: Length.
        options: Of the container.
    """
    clip = _decoded(source, seconds)
    assert clip.frames is not None
    assert clip.audio is not None
    with av.open(str(target), "w", format=container, options=options or {}) as out:
        video = None
        if codec:
            video = out.add_stream(codec, rate=10)
            height, width = clip.frames.shape[-2:]
            video.width, video.height = size or (width // 4 * 2, height // 4 * 2)
            video.pix_fmt, video.time_base = pixels, Fraction(1, 1000)
            video.codec_context.time_base = Fraction(1, 1000)
            if turn:
                video.set_display_rotation(turn)
        tracks = [out.add_stream(name, rate=rate, layout=layout) for name, rate, layout in sounds]
        for i, frame in enumerate(clip.frames if video else ()):
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            picture = picture.reformat(width=video.width, height=video.height, format=pixels)
            picture.pts, picture.time_base = round(1000 * (times(i) if times else i / 10)), Fraction(1, 1000)
            out.mux(video.encode(picture))
        for track, (_, rate, _) in zip(tracks, sounds, strict=True):
            moments = np.arange(int(rate * seconds)) / rate
            wave = np.interp(moments, np.arange(len(clip.audio)) / 16_000, clip.audio.numpy()).astype(np.float32)
            resampler = av.AudioResampler(format=track.codec_context.format, layout=track.layout, rate=rate)
            size_of = track.codec_context.frame_size or 1024
            for start in range(0, len(wave), size_of):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + size_of].copy(), "fltp", "mono")
                piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
                piece.pts = start + round(sound_delay * rate)
                for ready in resampler.resample(piece):
                    out.mux(track.encode(ready))
        for stream in [*([video] if video else []), *tracks]:
            out.mux(stream.encode(None))


def _bytes(change: Callable[[bytes], bytes], **how: object) -> Callable[[Path, Path], object]:
    def make(source: Path, target: Path) -> None:
        transcode(source, target, **how)  # type: ignore[arg-type]
        target.write_bytes(change(target.read_bytes()))

    return make


def _as(**how: object) -> Callable[[Path, Path], object]:
    return lambda source, target: transcode(source, target, **how)  # type: ignore[arg-type]


def _write(data: bytes | Callable[[], bytes]) -> Callable[[Path, Path], object]:
    return lambda _, target: target.write_bytes(data() if callable(data) else data)


def _picture(mode: str, format: str, size: tuple[int, int] = (120, 80), **save: object) -> bytes:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(buffer, format, **save)
    return buffer.getvalue()


def _bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def _turned_photo() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees with the clock
    return _picture("RGB", "JPEG", exif=exif)


def _wave(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def _tone(seconds: float = 2.0, rate: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def _with_nan() -> bytes:
    wave = _tone()
    wave[5000:5100] = np.nan
    return _wave(wave)


def _two_rates(source: Path, target: Path) -> None:
    parts = []
    for rate in (44_100, 32_000):
        transcode(source, target, container="mp3", codec="", sounds=(("libmp3lame", rate, "stereo"),))
        parts.append(target.read_bytes())
    target.write_bytes(b"".join(parts))


def _cover(source: Path, target: Path) -> None:
    with av.open(str(target), "w", format="mp3") as out:
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream("libmp3lame", rate=44_100, layout="stereo")
        wave = np.tile(_tone(2.0, 44_100), (2, 1))
        for start in range(0, wave.shape[1], 1152):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1152]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, start, Fraction(1, 44_100)
            out.mux(sound.encode(frame))
        still = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24").reformat(format="yuvj420p")
        still.pts = 0
        out.mux(picture.encode(still))
        for stream in (picture, sound):
            out.mux(stream.encode(None))


def _zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[: middle - 600] + bytes(1200) + data[middle + 600 :]


FAST = {"movflags": "faststart"}
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"

ANIMALS = (
    Animal("plain.mp4", "nothing", USED, "", _as()),
    Animal("turned_90.mp4", "has to be turned by 90 degrees", REPAIRED, "turned by", _as(turn=90)),
    Animal("turned_180.mp4", "lies on its head", REPAIRED, "turned by 180", _as(turn=180)),
    Animal("uneven.mkv", "variable frame rate", USED, "", _as(times=lambda i: 0.01 * i * i)),
    Animal("odd_size.mkv", "97 x 61 pixels", USED, "", _as(size=(97, 61), codec="ffv1", pixels="bgr0")),
    Animal("tiny.mkv", "2 x 2 pixels", USED, "", _as(size=(2, 2), codec="ffv1", pixels="bgr0")),
    Animal("strip.mkv", "640 x 2 pixels", REFUSED, "cannot be resized",
           _as(size=(640, 2), codec="ffv1", pixels="bgr0")),
    Animal("grey10.mkv", "10-bit grey pictures", USED, "", _as(codec="ffv1", pixels="gray10le")),
    Animal("silent.mp4", "no audio stream", REPAIRED, "no audio stream", _as(sounds=())),
    Animal("two_tracks.mkv", "two audio streams", REPAIRED, "2 audio streams, number 1 used",
           _as(sounds=(("aac", 44_100, "stereo"), ("libopus", 48_000, "mono")))),
    Animal("mono_8k.mkv", "mono at 8 kHz", USED, "", _as(sounds=(("pcm_s16le", 8_000, "mono"),))),
    Animal("surround.mkv", "5.1 at 48 kHz", USED, "", _as(sounds=(("ac3", 48_000, "5.1"),))),
    Animal("fine_96k.mkv", "stereo at 96 kHz", USED, "", _as(sounds=(("flac", 96_000, "stereo"),))),
    Animal("late_sound.mkv", "sound begins a second late", USED, "", _as(sound_delay=1.0)),
    Animal("stream.ts", "MPEG transport stream, clock not at 0", USED, "", _as(container="mpegts")),
    Animal("cartoon.avi", "AVI, MPEG-4 part 2 and MP3", USED, "",
           _as(codec="mpeg4", sounds=(("libmp3lame", 44_100, "stereo"),))),
    Animal("moving.gif", "animated GIF", REPAIRED, "no audio stream", _as(codec="gif", pixels="rgb8", sounds=())),
    Animal("bare.h264", "H.264 without a container or time stamps", REPAIRED, "frames a second assumed",
           _as(container="h264", sounds=())),
    Animal("webm_inside.mp4", "WebM named .mp4", USED, "",
           _as(container="webm", codec="libvpx", sounds=(("libopus", 48_000, "stereo"),))),
    Animal("cut.mkv", "Matroska cut in the middle", REPAIRED, "before the file says",
           _bytes(lambda b: b[: len(b) // 2])),
    Animal("cut_index_first.mp4", "mp4 with its index in front, cut", REPAIRED, "before the file says",
           _bytes(lambda b: b[: len(b) // 2], options=FAST)),
    Animal("cut_index_last.mp4", "mp4 with its index at the end, cut", REFUSED, "cannot be opened",
           _bytes(lambda b: b[: len(b) * 9 // 10])),
    Animal("zeros_inside.mkv", "1,200 zero bytes in the middle", REPAIRED, "", _bytes(_zeroed)),
    Animal("empty.mp4", "no bytes", REFUSED, "is empty", _write(b"")),
    Animal("words.mp4", "text", REFUSED, "cannot be opened", _write(b"this is no video at all\n" * 100)),
    Animal("zeros.mp4", "4 KB of zero bytes", REFUSED, "cannot be opened", _write(bytes(4096))),
    Animal("header.mp4", "the first 200 bytes", REFUSED, "cannot be opened", _bytes(lambda b: b[:200])),
    Animal("playlist.mp4", "a playlist that names another file", REFUSED, "cannot be opened", _write(PLAYLIST)),
    Animal("script.mp4", "an FFmpeg script that names another file", REFUSED, "cannot be opened",
           _write(b"ffconcat version 1.0\nfile /etc/passwd\n")),
    Animal("photo.mp4", "a JPEG named .mp4", REPAIRED, "a picture, not a video",
           _write(lambda: _picture("RGB", "JPEG"))),
    Animal("song.mp4", "sound alone", REFUSED, "no video stream", _as(codec="")),
    Animal("cover.mp3", "MP3 with a cover picture, as a video", REFUSED, "no video stream", _cover),
    Animal("cover_heard.mp3", "the same, as sound", USED, "", _cover, Modality.AUDIO),
    Animal("clip.wav", "mp4 named .wav, as sound", USED, "", _as(container="mp4"), Modality.AUDIO),
    Animal("mp3_inside.wav", "MP3 named .wav", USED, "",
           _as(container="mp3", codec="", sounds=(("libmp3lame", 44_100, "mono"),)), Modality.AUDIO),
    Animal("blink.wav", "0.05 s of sound", REFUSED, "only 0.05 s", _write(lambda: _wave(_tone(0.05))), Modality.AUDIO),
    Animal("not_numbers.wav", "samples that are NaN", REPAIRED, "became silence", _write(_with_nan), Modality.AUDIO),
    Animal("odd_rate.wav", "44,099 Hz", REPAIRED, "taken for 44100",
           _write(lambda: _wave(_tone(2.0, 44_099), 44_099)), Modality.AUDIO),
    Animal("no_sound.wav", "a header without samples", REFUSED, "only 0.00 s",
           _write(lambda: _wave(_tone(0.0))), Modality.AUDIO),
    Animal("two_rates.mp3", "sample rate changes half-way", REPAIRED, "sample rate changes", _two_rates,
           Modality.AUDIO),
    Animal("sheer.png", "RGBA picture", USED, "", _write(lambda: _picture("RGBA", "PNG")), Modality.IMAGE),
    Animal("palette.bmp", "BMP picture with a palette", USED, "", _write(lambda: _picture("P", "BMP")), Modality.IMAGE),
    Animal("wide.tiff", "TIFF picture", USED, "", _write(lambda: _picture("RGB", "TIFF")), Modality.IMAGE),
    Animal("photo_turned.jpg", "photo that EXIF turns", USED, "", _write(_turned_photo), Modality.IMAGE),
    Animal("cut.png", "PNG cut in the middle", REFUSED, "not a readable picture",
           _write(lambda: _picture("RGB", "PNG")[:150]), Modality.IMAGE),
    Animal("cut.jpg", "JPEG cut in the middle", REPAIRED, "damaged",
           _write(lambda: to_jpeg(torch.arange(28_800).reshape(3, 80, 120).remainder(251).to(torch.uint8))[:6000]),
           Modality.IMAGE),
    Animal("huge.png", "20,000 x 20,000 pixels in 50 KB", REFUSED, "more than",
           _write(_bomb), Modality.IMAGE),
    Animal("film.jpg", "mp4 named .jpg, as a picture", REPAIRED, "its first frame is used",
           _as(container="mp4"), Modality.IMAGE),
    Animal("folder.mp4", "a folder", REFUSED, "missing", lambda _, target: target.mkdir()),
    Animal("nowhere.mp4", "not there", REFUSED, "missing", lambda *_: None),
)  # fmt: skip


def build(source: Path, folder: Path) -> Iterator[tuple[Animal, Path]]:
    """Make every file of the zoo."""
    folder.mkdir(parents=True, exist_ok=True)
    for animal in ANIMALS:
        path = folder / animal.file
        animal.make(source, path)
        yield animal, path


def table(source: Path) -> str:
    """What becomes of each file, as Markdown."""
    lines = ["| file | what is odd | outcome | what is said |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for animal, path in build(source, Path(folder)):
            outcome, said, _ = outcome_of(path, animal.kind, SPEC)
            lines.append(f"| `{animal.file}` | {animal.what} | {outcome} | {said.replace(folder, '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
