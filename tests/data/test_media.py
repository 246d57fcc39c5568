"""Decoding real files: which frames at which times, how loud, and what happens to odd and damaged ones."""

import numpy as np
import pytest
import torch

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import Clip, ClipSpec, FrameBudget
from avrt.data.media.codecs import from_flac, from_jpeg, to_flac, to_jpeg
from avrt.data.media.decode import decode_still, decode_video
from avrt.errors import BadSampleError
from tests.conftest import make_clip

SIZE = FrameBudget(56 * 56, 112 * 112)
SPEC = ClipSpec(budget=SIZE, still_budget=SIZE)


def numbers(clip: Clip) -> list[int]:
    """Frame numbers, read back from the brightness that `make_clip` gave them."""
    return [round(frame.float().mean().item() / 5) for frame in clip.frames]


def test_frames_are_uniform_in_time_with_true_timestamps(tmp_path):
    clip = decode_video(make_clip(tmp_path / "a.mp4", frames=40, fps=10), SPEC)
    assert numbers(clip) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert clip.timestamps == pytest.approx([0.5 * i for i in range(8)])
    assert clip.seconds_per_frame == pytest.approx(0.5)
    assert clip.info["duration"] == pytest.approx(4.0)
    assert clip.frames.shape == (8, 3, 56, 84)


def test_number_of_frames_and_seconds_are_arguments(tmp_path):
    spec = ClipSpec(frames=4, audio_seconds=1.5, budget=SPEC.budget)
    clip = decode_video(make_clip(tmp_path / "a.mp4"), spec)
    assert numbers(clip) == [0, 10, 20, 30]
    assert clip.audio.shape == (24_000,)


def test_few_frames_are_repeated_and_noted(tmp_path):
    clip = decode_video(make_clip(tmp_path / "a.mp4", frames=3, sound_seconds=None), SPEC)
    assert numbers(clip) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert "only 3 distinct frames" in clip.info["notes"]
    assert "no audio stream" in clip.info["notes"]
    assert clip.audio is None


@pytest.mark.parametrize(
    ("rate", "layout"), [(48_000, "stereo"), (44_100, "mono"), (16_000, "mono"), (22_050, "stereo")]
)
def test_sound_becomes_16_khz_mono_at_its_own_pitch_and_level(tmp_path, rate, layout):
    sound = decode_audio(make_clip(tmp_path / "a.mp4", rate=rate, layout=layout, tone=1000.0), SPEC)
    middle = sound[16_000:32_000].numpy()
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 1000  # bins of 1 Hz
    assert np.sqrt(2) * middle.std() == pytest.approx(0.5, rel=0.03)


def test_channels_are_averaged_not_summed(tmp_path):
    one_sided = decode_audio(make_clip(tmp_path / "a.mp4", left_gain=0.0), SPEC)
    assert np.sqrt(2) * one_sided[8000:48_000].std().item() == pytest.approx(0.25, rel=0.05)


def test_sound_is_cut_to_what_is_asked_for_and_kept_when_shorter(tmp_path):
    path = make_clip(tmp_path / "a.mp4", frames=130, sound_seconds=13.0)
    assert decode_video(path, SPEC).audio.shape == (160_000,)
    short = decode_video(make_clip(tmp_path / "b.mp4", frames=40, sound_seconds=2.0), SPEC)
    assert len(short.audio) == pytest.approx(32_000, abs=1200)  # AAC pads to whole packets


def test_truncated_file_gives_what_is_left(tmp_path):
    path = make_clip(tmp_path / "a.mkv", frames=200)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    clip = decode_video(path, SPEC)
    assert clip.frames.shape[0] == 8
    assert clip.info["duration"] < 19


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:200], lambda b: b"not a video at all" * 50])
def test_useless_file_is_one_clear_error_that_names_it(tmp_path, damage):
    path = make_clip(tmp_path / "broken.mp4")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadSampleError, match=r"broken\.mp4"):
        decode_video(path, SPEC)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    original = make_clip(tmp_path / "a.mp4").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for i in range(20):
        data = bytearray(original)
        for position in rng.integers(0, len(data), 40):
            data[position] = rng.integers(0, 256)
        path = tmp_path / f"flipped{i}.mp4"
        path.write_bytes(data)
        try:
            clip = decode_video(path, SPEC)
            assert clip.frames.shape[0] == 8
            outcomes.add("used")
        except BadSampleError:
            outcomes.add("refused")
    assert outcomes == {"used", "refused"}


def test_jpeg_and_flac_round_trips():
    picture = torch.arange(3 * 56 * 84).reshape(3, 56, 84).div(3 * 56 * 84 / 255).to(torch.uint8)
    assert (from_jpeg(to_jpeg(picture)).float() - picture.float()).abs().mean() < 3
    sound = torch.sin(torch.arange(8000) / 10) * 1.5
    assert (from_flac(to_flac(sound)) - sound.clamp(-1, 1)).abs().max() < 1e-4
    for decode in (from_jpeg, from_flac):
        with pytest.raises(BadSampleError):
            decode(b"garbage")


def test_picture_file(tmp_path):
    path = tmp_path / "p.jpg"
    path.write_bytes(to_jpeg(torch.full((3, 100, 200), 77, dtype=torch.uint8)))
    picture = decode_still(path, SPEC)
    assert picture.shape == (3, 56, 140)
    assert picture.float().mean().item() == pytest.approx(77, abs=1)
    path.write_bytes(b"nothing")
    with pytest.raises(BadSampleError, match=r"p\.jpg"):
        decode_still(path, SPEC)


def test_real_clips(shared_data):
    for path in sorted((shared_data / "clips").glob("*.mp4")):
        clip = decode_video(path, ClipSpec())
        assert clip.frames.shape == (8, 3, 336, 588)
        assert clip.seconds_per_frame == pytest.approx(1.25, abs=0.01)
        assert clip.audio.shape[0] == pytest.approx(160_000, abs=400)
        assert clip.audio.std() > 0.01
