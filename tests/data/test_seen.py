"""Pictures and sound are what a person sees and hears: alpha, greys, turning, proportions, clocks, channels."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.decode import decode_still, decode_video
from avrt.data.media.orientation import Orientation
from avrt.data.sample import Modality
from avrt.data.shards.conversion import load_clip
from avrt.errors import BadSampleError

SPEC = ClipSpec(budget=FrameBudget(56 * 56, 112 * 112))


def _film(path, *, seconds=(0.0, 2.0), sound=None, aspect=None, rate=16_000):
    """Ten pictures a second from seconds[0] to seconds[1], and sound of two channels from 0."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264" if aspect else "ffv1", rate=10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p" if aspect else "bgr0"
        video.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        track = out.add_stream("pcm_s16le", rate=rate, layout="stereo") if sound is not None else None
        for i in range(round(10 * (seconds[1] - seconds[0]))):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), "rgb24").reformat(
                format=video.pix_fmt
            )
            frame.pts, frame.time_base = round(1000 * seconds[0]) + 100 * i, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if track is not None:
            data = np.ascontiguousarray((sound * 32_767).astype(np.int16).T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(data, "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            out.mux(track.encode(frame))
            out.mux(track.encode(None))


def _steps(seconds):
    """Two equal channels whose level is one hundredth of the second that it is in."""
    level = np.floor(np.arange(seconds * 16_000) / 16_000) / 100
    return np.stack([level, level])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_is_white(tmp_path, mode, kind):
    Image.new(mode, (64, 64), 0).save(tmp_path / "clear", kind, lossless=True)
    notes = []
    assert decode_still(tmp_path / "clear", SPEC, notes).min() == 255
    assert notes == ["transparent parts shown on white"]


@pytest.mark.parametrize("value", [0, 16_448, 32_896, 65_535])
def test_greys_of_16_bits_are_scaled(tmp_path, value):
    picture = np.full((64, 64), value, np.uint16)
    Image.fromarray(picture).save(tmp_path / "grey.png")
    assert decode_still(tmp_path / "grey.png", SPEC).unique().tolist() == [round(value / 257)]


def test_float_greys_are_scaled(tmp_path):
    Image.fromarray(np.full((64, 64), 0.4, np.float32)).save(tmp_path / "grey.tiff")
    assert decode_still(tmp_path / "grey.tiff", SPEC).unique().tolist() == [102]


# which corner of the stored picture is seen at the upper left and at the upper right, by the EXIF standard
_SEEN = {1: "rg", 2: "gr", 3: "yb", 4: "by", 5: "rb", 6: "br", 7: "yg", 8: "gy"}
_COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "y": (255, 255, 0)}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("way", _SEEN)
def test_all_eight_ways_up(tmp_path, way, kind):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:], picture[32:, :32], picture[32:, 32:] = (_COLOURS[c] for c in "rgby")
    exif = Image.Exif()
    exif[0x0112] = way
    Image.fromarray(picture).save(tmp_path / "p", kind, exif=exif, lossless=True)
    still = decode_still(tmp_path / "p", SPEC)
    side = still.shape[1] // 4
    assert [tuple(still[:, side, x].tolist()) for x in (side, 3 * side)] == [_COLOURS[c] for c in _SEEN[way]]


@pytest.mark.parametrize(
    ("matrix", "top", "words"),
    [
        ((1, 0, 0, 1), [1, 2], ""),
        ((-1, 0, 0, 1), [2, 1], "mirrored left to right"),
        ((1, 0, 0, -1), [3, 4], "mirrored top to bottom"),
        ((-1, 0, 0, -1), [4, 3], "turned by 180 degrees"),
        ((0, 1, -1, 0), [3, 1], "turned by 270 degrees"),
        ((0, -1, 1, 0), [2, 4], "turned by 90 degrees"),
        ((0, 1, 1, 0), [1, 3], "turned by 90 degrees and mirrored top to bottom"),
        ((0, -1, -1, 0), [4, 2], "turned by 90 degrees and mirrored left to right"),
    ],
)
def test_all_eight_display_matrices(matrix, top, words):
    class Frame:
        a, b, c, d = (value * 65_536 for value in matrix)
        side_data = {"DISPLAYMATRIX": np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()}  # noqa: RUF012

    way = Orientation.of(Frame)
    assert way.apply(np.array([[1, 2], [3, 4]]))[0].tolist() == top
    assert str(way) == words


def test_wide_pixels_are_shown_wide(tmp_path):
    _film(tmp_path / "a.mp4", aspect=Fraction(2, 1))
    clip = decode_video(tmp_path / "a.mp4", SPEC)
    assert (clip.info["width"], clip.info["height"]) == (128, 64)
    assert "pixels of 2:1, shown as 128x64" in clip.info["notes"]


def test_sound_before_the_pictures_is_left_out_and_nothing_else_is_said(tmp_path):
    _film(tmp_path / "a.mkv", seconds=(3.0, 8.0), sound=_steps(8))
    clip = decode_video(tmp_path / "a.mkv", SPEC)
    assert clip.info["notes"] == ["the first 3.0 s of sound left out: no picture yet"]
    assert clip.info["duration"] == pytest.approx(5.0, abs=0.01)
    assert [float(clip.audio[i * 16_000 + 8_000]) for i in range(5)] == pytest.approx(
        [0.03, 0.04, 0.05, 0.06, 0.07], abs=1e-3
    )


def test_channels_that_cancel_are_not_silence(tmp_path):
    tone = 0.5 * np.sin(np.arange(32_000) / 6)
    soundfile.write(tmp_path / "a.wav", np.stack([0.8 * tone, -tone], 1), 16_000, subtype="FLOAT")
    notes = []
    heard = decode_audio(tmp_path / "a.wav", SPEC, notes=notes)
    assert heard.numpy() == pytest.approx(-tone, abs=1e-4)
    assert notes == ["its channels cancel each other: channel 2 of 2 is used"]


def test_channels_that_do_not_cancel_are_averaged(tmp_path):
    tone = 0.5 * np.sin(np.arange(32_000) / 6)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, 0 * tone], 1), 16_000, subtype="FLOAT")
    notes = []
    assert decode_audio(tmp_path / "a.wav", SPEC, notes=notes).numpy() == pytest.approx(tone / 2, abs=1e-4)
    assert notes == []


def test_a_tiled_photo_is_refused(tmp_path):
    box = b"\0\0\0\x15infe\2\0\0\0\0\1\0\0grid\0"
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0" + box + bytes(500))
    with pytest.raises(BadSampleError, match="made of tiles are not supported"):
        load_clip({Modality.IMAGE: tmp_path / "a.jpg"}, SPEC)


def _recording(path, levels):
    """An MPEG transport stream of 10 pictures a second, each of its own grey, with a tone beside them."""
    with av.open(str(path), "w", format="mpegts") as out:
        video = out.add_stream("libx264", rate=10, options={"crf": "4", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for level in levels:
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), "rgb24")))
        out.mux(video.encode(None))
    return path.read_bytes()


def test_recordings_put_one_behind_the_other_are_seen_to_the_end(tmp_path):
    """The clock begins anew with the second one, as where files were joined with `cat`."""
    first = _recording(tmp_path / "a.ts", [40] * 20)
    second = _recording(tmp_path / "b.ts", [200] * 20)
    (tmp_path / "joined.ts").write_bytes(first + second)
    clip = decode_video(tmp_path / "joined.ts", ClipSpec(frames=8, budget=SPEC.budget))
    greys = clip.frames.float().mean(dim=(1, 2, 3)).round().tolist()
    assert greys[:4] == pytest.approx([40] * 4, abs=3)
    assert greys[4:] == pytest.approx([200] * 4, abs=3)
    assert clip.info["duration"] == pytest.approx(4.0, abs=0.11)
    assert "its clock restarts 1 times: the parts follow each other" in clip.info["notes"]


def _late_sound(path, starts, seconds=1.0):
    """Tones of the given length that begin at the given times, in Matroska."""
    with av.open(str(path), "w", format="matroska") as out:
        track = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        tone = np.full((1, round(seconds * 16_000)), 8_000, np.int16)
        for start in starts:
            frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, round(start * 16_000), Fraction(1, 16_000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def test_a_gap_of_hours_is_filled_no_further_than_is_wanted(tmp_path):
    path = _late_sound(tmp_path / "gap.mkv", [0.0, 3.0, 36_000.0])
    notes = []
    sound = decode_audio(path, SPEC, notes=notes)
    level = sound.view(-1, 16_000).abs().mean(dim=1)
    assert len(sound) == 10 * 16_000
    assert level[[0, 3]].tolist() == pytest.approx([8_000 / 32_768] * 2, rel=0.02)
    assert level[[1, 2, 4, 5, 9]].tolist() == pytest.approx([0.0] * 5, abs=1e-3)
    (filled,) = [note for note in notes if note.startswith("gaps of")]
    assert float(filled.split()[2]) < 15  # not ten hours of silence in memory


def test_a_delay_of_hours_is_silence_no_longer_than_is_wanted(tmp_path):
    path = _late_sound(tmp_path / "late.mkv", [36_000.0])
    notes = []
    sound = decode_audio(path, SPEC, start=0.0, notes=notes)
    assert len(sound) == 10 * 16_000
    assert sound.abs().max() == 0
    assert "sound begins 36000.0 s after the pictures: silence alone is taken" in notes


def test_a_short_gap_is_filled_and_a_shorter_one_is_not(tmp_path):
    """Below a tenth of a second, times are rounded rather than sound missing."""
    for gap, expected in ((0.5, 2.5), (0.02, 2.0)):
        sound = decode_audio(_late_sound(tmp_path / f"{gap}.mkv", [0.0, 1.0 + gap]), SPEC)
        assert len(sound) / 16_000 == pytest.approx(expected, abs=0.03)


def test_a_delay_without_end_needs_no_memory(tmp_path):
    path = _late_sound(tmp_path / "tone.wav.mkv", [0.0])
    assert len(decode_audio(path, SPEC, start=-1e12)) == 10 * 16_000


def test_the_sound_that_a_player_would_choose_is_taken(tmp_path):
    """The second of two tracks is marked as the default one."""
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        tracks = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        tracks[0].disposition, tracks[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for track, level in zip(tracks, (1_000, 8_000), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), level, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    notes = []
    sound = decode_audio(tmp_path / "two.mkv", SPEC, notes=notes)
    assert float(sound.abs().median()) == pytest.approx(8_000 / 32_768, rel=0.01)
    assert notes == ["2 audio streams, number 2 used"]
