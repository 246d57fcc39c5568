"""Clips that two shard sets share: found by name, by frames and by sound, also when they were encoded anew."""

import json

import numpy as np
import pytest
import torch

from avrt.commands import shards as shards_command
from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.sample import Modality
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.overlap import (
    MAX_BIT_ERRORS,
    MAX_FRAME_BITS,
    find_overlap,
    fingerprints,
    frame_hashes,
    sound_words,
    video_of,
)
from avrt.data.shards.reader import ShardSet
from tests.conftest import make_sample
from tests.data.zoo import transcode


@pytest.mark.parametrize(
    ("metadata", "video"),
    [
        ({"video_name": "-HG3Omg_89c_000030", "video_id": 7}, "-HG3Omg_89c"),
        ({"video_id": "G_VTkkb34gw"}, "G_VTkkb34gw"),
        ({"url": "https://www.youtube.com/watch?v=G_VTkkb34gw&t=3"}, "G_VTkkb34gw"),
        ({"url": "https://youtu.be/G_VTkkb34gw?t=3"}, "G_VTkkb34gw"),
        ({"video_id": "00006835"}, "00006835"),
        ({"video_id": 7}, None),
        ({}, None),
    ],
)
def test_names_of_videos(metadata, video):
    assert video_of(metadata) == video


def scene(seed: int, seconds: float = 10.0) -> Clip:
    """A clip with structure for eye and ear, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 255, (8, 3, 6, 8)).astype(np.float32))
    frames = torch.nn.functional.interpolate(coarse, (168, 224), mode="bicubic").clamp(0, 255).to(torch.uint8)
    time = np.arange(int(16_000 * seconds)) / 16_000
    pitch = np.repeat(rng.uniform(300, 2000, int(seconds * 8)), 2000)[: len(time)]
    wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000) + 0.05 * rng.standard_normal(len(time))
    return Clip(frames=frames, audio=torch.from_numpy(wave.astype(np.float32)))


def bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a ^ b)


def test_hashes_outlive_noise_size_and_brightness_but_tell_scenes_apart():
    clip, other = scene(0), scene(1)
    changed = torch.nn.functional.interpolate(clip.frames.float() * 0.8 + 15, (112, 168), mode="bilinear")
    noisy = (changed + torch.randn_like(changed) * 6).clamp(0, 255).to(torch.uint8)
    assert bits(frame_hashes(clip), frame_hashes(Clip(frames=noisy))).max() <= MAX_FRAME_BITS
    assert bits(frame_hashes(clip), frame_hashes(other)).min() > 2 * MAX_FRAME_BITS
    assert len(frame_hashes(Clip(frames=torch.full((4, 3, 56, 56), 77, dtype=torch.uint8)))) == 0


def test_sound_words_outlive_noise_and_loudness_but_tell_sounds_apart():
    clip, other = scene(0), scene(1)
    noisy = 0.4 * clip.audio + torch.randn_like(clip.audio) * 0.01
    words, same, foreign = (sound_words(sound) for sound in (clip.audio, noisy, other.audio))
    assert bits(words, same).mean() / 32 < MAX_BIT_ERRORS / 2
    assert bits(words, foreign).mean() / 32 > 1.3 * MAX_BIT_ERRORS
    assert not sound_words(torch.zeros(160_000)).any()
    assert len(sound_words(torch.zeros(100))) == 0


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared_data):
    """Six real clips as training shards; as test shards two of them encoded anew, a picture of one, and a 30 s video
    that another was cut from."""
    root = tmp_path_factory.mktemp("real")
    clips = sorted((shared_data / "clips").glob("*.mp4"))
    spec = ClipSpec()
    write_shards(
        [SourceItem(make_sample(f"train{i}"), {Modality.VIDEO: clip}) for i, clip in enumerate(clips)],
        root / "train",
        spec,
    )
    again, quiet = root / "again.mkv", root / "quiet.webm"
    transcode(clips[0], again, codec="mpeg4", size=(320, 180), sounds=(("libmp3lame", 44_100, "stereo"),), seconds=10.0)
    transcode(clips[3], quiet, codec="libvpx", size=(256, 144), sounds=(), seconds=10.0)
    whole = next((shared_data / "dailyomni" / "Videos").glob("d6b4*/*.mp4"))
    items = [
        SourceItem(make_sample("encoded anew"), {Modality.VIDEO: again}),
        SourceItem(make_sample("without sound"), {Modality.VIDEO: quiet}),
        SourceItem(make_sample("whole video", metadata={"video_id": "d6b4OmUFt7I"}), {Modality.VIDEO: whole}),
        SourceItem(make_sample("sound alone"), {Modality.AUDIO: clips[1]}),
    ]
    write_shards(items, root / "test", spec)
    return root


def test_real_clips_are_recognised_and_others_are_not(real):
    train, test = (fingerprints(ShardSet(real / name)) for name in ("train", "test"))
    pairs = {(pair.test, pair.train): set(pair.by) for pair in find_overlap(train, test)}
    assert pairs["encoded anew", "train0"] == {"frames", "audio"}
    assert pairs["without sound", "train3"] == {"frames"}
    assert pairs["sound alone", "train1"] == {"audio"}
    assert "audio" in pairs["whole video", "train3"]  # its first ten seconds
    same_video = {("encoded anew", f"train{i}") for i in (1, 2)} | {("whole video", f"train{i}") for i in (4, 5)}
    same_video |= {("without sound", f"train{i}") for i in (4, 5)}
    foreign = set(pairs) - same_video - {
        ("encoded anew", "train0"), ("without sound", "train3"), ("sound alone", "train1"), ("whole video", "train3"),
    }  # fmt: skip
    assert not foreign  # other parts of the same video may look alike, but nothing of the other video does


def test_command_tells_pairs_and_fails_on_them(world, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        shards_command.main(["overlap", str(world / "train"), str(world / "train"), "--out", str(tmp_path / "o.jsonl")])
    assert ended.value.code == 1
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert {line["test"] for line in lines} == {sample.id for sample in ShardSet(world / "train").samples()}
    assert "48 of 48 test samples" in capsys.readouterr().out


def test_sets_that_share_nothing_pass(tmp_path, capsys):
    for name, seeds in (("a", (0, 1)), ("b", (2, 3))):
        items = [SourceItem(make_sample(f"{name}{seed}"), {}) for seed in seeds]
        write_shards(items, tmp_path / name, ClipSpec())
    shards_command.main(["overlap", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "0 of 2 test samples" in capsys.readouterr().out
    prints = [fingerprints(ShardSet(tmp_path / name)) for name in "ab"]
    assert [len(p.clips) for p in prints] == [2, 2]
