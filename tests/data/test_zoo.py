"""Odd and broken media: each file of the zoo is used, repaired with a note, or refused with a reason, as documented."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import Clip, ClipSpec, FrameBudget
from avrt.data.media.decode import decode_still, decode_video
from tests.conftest import make_clip
from tests.data.zoo import ANIMALS, REFUSED, SPEC, build, outcome_of

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    return dict(build(make_clip(folder / "source.mp4", size=(160, 96)), folder / "files"))


@pytest.fixture(scope="module")
def real_zoo(tmp_path_factory, shared_data):
    return dict(build(min((shared_data / "clips").glob("*.mp4")), tmp_path_factory.mktemp("real_zoo")))


@pytest.mark.parametrize("animal", ANIMALS, ids=lambda animal: animal.file)
@pytest.mark.parametrize("made_from", ["zoo", "real_zoo"])
def test_outcome(request, made_from, animal):
    outcome, said, clip = outcome_of(request.getfixturevalue(made_from)[animal], animal.kind, SPEC)
    assert (outcome, animal.says in said) == (animal.outcome, True), said
    assert (clip is None) == (outcome == REFUSED)
    if clip is not None and clip.frames is not None:
        assert clip.frames.shape[0] == SPEC.frames
        assert clip.frames.float().std() > 0
    if clip is not None and clip.audio is not None:
        assert torch.isfinite(clip.audio).all()
        assert clip.audio.abs().max() > 0


def test_the_documentation_lists_these_outcomes():
    lines = DOCS.read_text().splitlines()
    for animal in ANIMALS:
        assert any(line.startswith(f"| `{animal.file}` | {animal.what} | {animal.outcome} |") for line in lines), animal


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_frames_are_turned_as_players_turn_them(tmp_path, turn, corner):
    """The corners are those that the ffmpeg program shows, which turns by the same matrix."""
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        if turn:
            video.set_display_rotation(turn)
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:32, :48] = 255
        for _ in range(8):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
    frame = decode_video(path, ClipSpec(budget=FrameBudget(56 * 56, 112 * 112))).frames[0].float().mean(0)
    height, width = frame.shape
    assert (height > width) == bool(turn % 180)
    quarters = frame.reshape(2, height // 2, 2, width // 2).mean((1, 3))
    assert divmod(int(quarters.argmax()), 2) == corner


def test_times_of_a_variable_rate_are_those_of_the_file(zoo):
    [path] = [path for animal, path in zoo.items() if animal.file == "uneven.mkv"]
    clip = decode_video(path, SPEC)
    shown = [0.01 * i * i for i in range(20)]
    for target, time in zip((i * clip.info["duration"] / 8 for i in range(8)), clip.timestamps, strict=True):
        assert time == pytest.approx(max(t for t in shown if t <= target + 2e-3), abs=2e-3)


def test_a_photo_is_turned_by_its_exif(zoo):
    [path] = [path for animal, path in zoo.items() if animal.file == "photo_turned.jpg"]
    height, width = decode_still(path, SPEC).shape[-2:]
    assert height > width  # it is stored 120 wide and 80 high


def test_sound_that_begins_late_is_preceded_by_silence(zoo):
    [path] = [path for animal, path in zoo.items() if animal.file == "late_sound.mkv"]
    clip: Clip = decode_video(path, SPEC)
    assert clip.audio[:15_000].abs().max() < 1e-3
    assert clip.audio[17_000:40_000].std() > 0.01


def test_all_channels_of_surround_sound_count(tmp_path, zoo):
    [path] = [path for animal, path in zoo.items() if animal.file == "surround.mkv"]
    [mono] = [path for animal, path in zoo.items() if animal.file == "fine_96k.mkv"]
    surround, plain = decode_audio(path, SPEC), decode_audio(mono, SPEC)
    assert 0.05 < surround.std() / plain.std() < 1.5
