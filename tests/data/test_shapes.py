"""How wide a film's pixels are, where its pictures stand when their size changes, and which of two films is shown."""

from fractions import Fraction

import av
import numpy as np
import pytest

from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.decode import decode_video

SPEC = ClipSpec(budget=FrameBudget(56 * 56, 112 * 112))


def _film(path, size, aspect):
    """Two seconds of white pictures, ten a second, whose pixels are `aspect` times as wide as high."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for i in range(20):
            frame = _picture(size, 255, "yuv420p")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _picture(size, value, kind):
    return av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), value, np.uint8), "rgb24").reformat(format=kind)


def _recording(path, sizes):
    """Transport streams put one behind the other: a second of white pictures of each (width, height)."""
    with path.open("wb") as whole:
        for number, size in enumerate(sizes):
            part = path.with_suffix(f".{number}.ts")
            with av.open(str(part), "w", format="mpegts") as out:
                stream = out.add_stream("mpeg2video", rate=25, options={"qscale": "1"})
                (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
                for i in range(25):
                    frame = _picture(size, 255, "yuv420p")
                    frame.pts = i
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
            whole.write(part.read_bytes())
    return path


@pytest.mark.parametrize(("aspect", "wide"), [(Fraction(10), True), (Fraction(11), False), (Fraction(1, 10), False)])
def test_pixels_up_to_ten_times_as_wide_as_high_are_believed(tmp_path, aspect, wide):
    clip = decode_video(_film(tmp_path / "a.mkv", (64, 64), aspect), SPEC)
    height, width = clip.frames.shape[-2:]
    assert (width > 2 * height) == wide
    assert (height > 2 * width) == (aspect == Fraction(1, 10))
    assert (height == width) == (aspect == Fraction(11))


@pytest.mark.parametrize(("first", "second", "along"), [((64, 64), (64, 32), 1), ((64, 64), (32, 64), 0)])
def test_pictures_of_another_shape_stand_in_the_middle(tmp_path, first, second, along):
    clip = decode_video(_recording(tmp_path / "a.ts", [first, second]), SPEC)
    bright = clip.frames[-1].float().mean(0).mean(along)
    seen = (bright > 128).nonzero().flatten()
    before, behind = int(seen[0]), len(bright) - 1 - int(seen[-1])
    assert abs(before - behind) <= 1
    assert before == pytest.approx(len(bright) / 4, abs=2)


def test_the_film_that_a_player_would_choose_is_shown(tmp_path):
    """The second of two is marked as the default one."""
    with av.open(str(tmp_path / "two.mkv"), "w") as out:
        films = [out.add_stream("ffv1", rate=10) for _ in range(2)]
        films[0].disposition, films[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for film in films:
            film.width, film.height, film.pix_fmt = 64, 64, "bgr0"
        for i in range(20):
            for film, value in zip(films, (40, 200), strict=True):
                frame = _picture((64, 64), value, "bgr0")
                frame.pts = i
                out.mux(film.encode(frame))
        for film in films:
            out.mux(film.encode(None))
    assert decode_video(tmp_path / "two.mkv", SPEC).frames.unique().tolist() == [200]
