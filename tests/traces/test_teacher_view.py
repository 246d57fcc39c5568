"""What teachers get: 10 s of audio, 8 frames, and the larger images of shards that have them."""

import io
import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from avrt.data.media.clip import Clip
from avrt.data.shards.members import decode_members, encode_clip
from avrt.errors import AvrtError
from avrt.traces.requests import Media
from avrt.traces.teacher_view import ShownOptions, teacher_view
from tests.conftest import avrt, make_sample
from tests.traces.servers import serving, write_config


def raw_of(seconds=30.0, frames=60, larger=False):
    """A sample's members: frame i has brightness 4 * i; the audio counts samples modulo 1,000."""
    pictures = torch.arange(frames, dtype=torch.uint8).mul(4)[:, None, None, None].expand(-1, 3, 56, 84)
    clip = Clip(
        frames=pictures,
        timestamps=tuple(i * seconds / frames for i in range(frames)),
        seconds_per_frame=seconds / frames,
        audio=(torch.arange(round(seconds * 16_000)) % 1000 / 2000).float(),
    )
    clip.info = {"duration": seconds}
    if larger:
        clip.for_teachers = pictures[:, :, :1, :1].expand(-1, -1, 112, 168).contiguous()
    return {
        "__key__": "0", "__url__": "a.tar", **encode_clip(clip),
        "json": make_sample(media=("video", "audio")).to_json(),
    }  # fmt: skip


def test_by_default_ten_seconds_and_eight_frames():
    raw = raw_of()
    members = teacher_view(raw, ShownOptions())
    sound, rate = soundfile.read(io.BytesIO(members["flac"]), dtype="int16")
    whole, _ = soundfile.read(io.BytesIO(raw["flac"]), dtype="int16")
    assert (len(sound), rate) == (160_000, 16_000)
    assert np.array_equal(sound, whole[:160_000])
    assert Media.of(members, ("vision",)).images == [raw[f"{i}.jpg"] for i in (0, 7, 15, 22, 30, 37, 45, 52)]
    _, clip = decode_members(members)
    assert clip.timestamps == tuple(i * 0.5 for i in (0, 7, 15, 22, 30, 37, 45, 52))
    assert clip.seconds_per_frame == 30 / 8
    assert clip.info["duration"] == 30.0


def test_members_without_changes_keep_their_bytes():
    raw = raw_of(seconds=10.0, frames=8)
    assert teacher_view(raw, ShownOptions()) == raw
    long = raw_of()
    assert teacher_view(long, ShownOptions(audio_seconds=None, max_frames=None)) == long


def test_images_for_teachers_replace_those_of_the_student():
    raw = raw_of(frames=8, larger=True)
    members = teacher_view(raw, ShownOptions())
    assert not [name for name in members if name.startswith("teacher.")]
    assert Media.of(members, ("vision",)).images == [raw[f"teacher.{i}.jpg"] for i in range(8)]


@pytest.mark.parametrize(("most", "size"), [(112 * 168, (168, 112)), (10_000, (112, 56)), (784, (28, 28))])
def test_larger_images_are_scaled_down(most, size):
    raw = raw_of(frames=8, larger=True)
    members = teacher_view(raw, ShownOptions(max_pixels=most))
    for i, jpeg in enumerate(Media.of(members, ("vision",)).images):
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert picture.size == size
            assert np.asarray(picture).mean() == pytest.approx(4 * i, abs=2)


@pytest.mark.parametrize("name", ["0.jpg", "flac", "clip.json"])
def test_damaged_members_are_unchanged(name):
    raw = {**raw_of(), name: b"nonsense"}
    members = teacher_view(raw, ShownOptions(max_pixels=784))
    assert b"nonsense" in members.values()


@pytest.mark.parametrize("changes", [{"audio_seconds": 0.0}, {"max_frames": 0}, {"max_pixels": 100}])
def test_limits_that_leave_nothing_are_refused(changes):
    with pytest.raises(AvrtError, match=f"shown.{next(iter(changes))}: is .*, needs at least"):
        ShownOptions(**changes)


def test_a_run_keeps_to_the_limits(tmp_path):
    """In the server's requests; without limits, teachers get all that the shard has."""
    from avrt.data.shards.writer import ShardWriter

    raw = raw_of(seconds=12.0, frames=12)
    choices = ("option 0 of 0", "the true one of 0", "option 2 of 0", "option 3 of 0")
    sample = make_sample("q", question="What is number 0?", choices=choices, media=("video", "audio"), trace=None)
    with ShardWriter(tmp_path / "data", {}) as writer:
        writer.write(sample, {n: data for n, data in raw.items() if not n.startswith("__") and n != "json"})
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url, val_share=0.0)
        for folder, extra in (("few", ()), ("all", ("--shown.audio_seconds", "null", "--shown.max_frames", "null"))):
            command = ("--config", config, "--data", tmp_path / "data", "--out", tmp_path / folder, *extra)
            avrt("traces", "run", *command, check=False)  # the one question may be dropped, which ends with status 1
        seen = [(r["pictures"], r["sounds"]) for r in server.records("request") if r["model"] != "merger"]
    assert sorted(seen) == [(0, [10.0]), (0, [12.0]), (8, []), (12, [])]
    assert json.loads(teacher_view(raw, ShownOptions())["clip.json"])["timestamps"][1] == 1.0
