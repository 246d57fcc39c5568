"""Shards: what is written is read back, by webdataset too; what cannot be used is named."""

import json

import pytest
import torch
import webdataset

from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.codecs import to_flac
from avrt.data.sample import Modality, Sample
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet, index_path
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256
from tests.conftest import make_clip, make_sample

SPEC = ClipSpec(budget=FrameBudget(56 * 56, 112 * 112))


def test_round_trip_through_index_and_through_webdataset(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    items = [SourceItem(make_sample(f"q{i}", question_type="Which"), {Modality.VIDEO: path}) for i in range(5)]
    manifest = write_shards(items, tmp_path / "out", SPEC, recipe={"name": "test"}, samples_per_shard=2)
    shards = ShardSet(tmp_path / "out")
    assert len(shards) == manifest.samples == 5
    assert [s.id for s in shards.samples()] == [f"q{i}" for i in range(5)]
    assert manifest.counts == {"video": 5, "audio": 5}
    assert manifest.question_types == {"Which": 5}
    assert [sha256(tmp_path / "out" / s["file"]) for s in manifest.shards] == [s["sha256"] for s in manifest.shards]
    sample, clip = decode_members(shards.read(3))
    assert sample.id == "q3"
    assert sample.media == (Modality.VIDEO, Modality.AUDIO)
    assert clip.frames.shape == (8, 3, 56, 84)
    assert clip.timestamps == pytest.approx([0.5 * i for i in range(8)])
    assert clip.seconds_per_frame == pytest.approx(0.5)
    urls = [str(tmp_path / "out" / s["file"]) for s in manifest.shards]
    streamed = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [Sample.from_json(raw["json"]).id for raw in streamed] == [f"q{i}" for i in range(5)]
    assert streamed[3]["flac"] == shards.read(3)["flac"]


def test_same_input_gives_the_same_bytes(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    items = [SourceItem(make_sample(f"q{i}"), {Modality.VIDEO: path}) for i in range(3)]
    hashes = [write_shards(items, tmp_path / name, SPEC).shards[0]["sha256"] for name in ("one", "two")]
    assert hashes[0] == hashes[1]


def test_odd_files_are_used_where_possible_and_otherwise_counted_and_named(tmp_path):
    corrupted = make_clip(tmp_path / "corrupted.mp4")
    corrupted.write_bytes(corrupted.read_bytes()[:300])
    clips = {
        "corrupted": corrupted,
        "silent": make_clip(tmp_path / "silent.mp4", sound_seconds=None),
        "three_frames": make_clip(tmp_path / "three.mp4", frames=3, sound_seconds=0.3),
        "stereo48": make_clip(tmp_path / "stereo.mp4", rate=48_000),
        "short_sound": make_clip(tmp_path / "short.mp4", sound_seconds=2.0),
        "missing": tmp_path / "nowhere.mp4",
    }
    items = [SourceItem(make_sample(name), {Modality.VIDEO: path}) for name, path in clips.items()]
    items.insert(2, BadSampleError("field 'answer' is missing", where="row 7"))
    items.append(SourceItem(make_sample("silent"), {Modality.VIDEO: clips["silent"]}))
    write_shards(items, tmp_path / "out", SPEC)
    manifest = Manifest.load(tmp_path / "out")
    shards = ShardSet(tmp_path / "out")
    assert {s.id: [str(m) for m in s.media] for s in shards.samples()} == {
        "silent": ["video"],
        "three_frames": ["video", "audio"],
        "stereo48": ["video", "audio"],
        "short_sound": ["video", "audio"],
    }
    assert set(manifest.skipped) == {"corrupted", "missing", "row 7", "silent"}
    assert "corrupted.mp4" in manifest.skipped["corrupted"]
    assert "twice" in manifest.skipped["silent"]
    assert manifest.notes["silent"] == ["no audio stream"]
    assert "only 3 distinct frames" in manifest.notes["three_frames"]


def test_sound_only_and_picture_with_sound(tmp_path):
    from avrt.data.media.codecs import to_jpeg

    sound, picture = tmp_path / "s.flac", tmp_path / "p.jpg"
    sound.write_bytes(to_flac(torch.sin(torch.arange(20_000) / 5) * 0.3))
    picture.write_bytes(to_jpeg(torch.zeros(3, 80, 120, dtype=torch.uint8)))
    items = [
        SourceItem(make_sample("heard"), {Modality.AUDIO: sound}),
        SourceItem(make_sample("both"), {Modality.IMAGE: picture, Modality.AUDIO: sound}),
        SourceItem(make_sample("text"), {}),
    ]
    write_shards(items, tmp_path / "out", SPEC)
    decoded = [decode_members(raw) for raw in map(ShardSet(tmp_path / "out").read, range(3))]
    assert [[str(m) for m in sample.media] for sample, _ in decoded] == [["audio"], ["image", "audio"], []]
    assert decoded[1][1].image.shape == (3, 84, 112)


def test_original_is_kept_on_request_but_not_read_in_training(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    write_shards([SourceItem(make_sample(), {Modality.VIDEO: path})], tmp_path / "out", SPEC, keep_original=True)
    raw = next(iter(webdataset.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False)))
    assert raw["original.mp4"] == path.read_bytes()
    assert "original.mp4" not in ShardSet(tmp_path / "out").read(0)


def test_missing_index_is_rebuilt_and_a_damaged_one_is_named(world):
    shards = ShardSet(world / "val")
    first = shards.read(0)
    beside = index_path(world / "val" / "shard-000000.tar")
    kept = beside.read_bytes()
    try:
        beside.unlink()
        assert ShardSet(world / "val").read(0) == first
        beside.write_text("[1, 2]")
        with pytest.raises(AvrtError, match=r"index\.json"):
            ShardSet(world / "val")
    finally:
        beside.write_bytes(kept)


def test_damaged_members_are_one_bad_sample(world):
    raw = ShardSet(world / "val").read(0)
    for name, value in (("3.jpg", b"xx"), ("flac", b"yy"), ("json", b"{}"), ("clip.json", b"?")):
        with pytest.raises(BadSampleError, match=raw["__key__"]):
            decode_members({**raw, name: value})
    with pytest.raises(BadSampleError, match=raw["__key__"]):
        decode_members({name: value for name, value in raw.items() if name != "flac"})


def test_folder_errors_say_what_to_do(tmp_path, world):
    with pytest.raises(AvrtError, match="avrt shards"):
        ShardSet(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(AvrtError, match="not a shard manifest"):
        ShardSet(tmp_path)
    with pytest.raises(AvrtError, match="already holds shards"):
        write_shards([], world / "val", SPEC)


def test_an_interrupted_writer_leaves_no_manifest(tmp_path):
    def items():
        yield SourceItem(make_sample(), {})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(items(), tmp_path / "out", SPEC)
    assert not (tmp_path / "out" / "manifest.json").exists()
