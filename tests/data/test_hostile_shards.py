"""Shards as hostile input: no path out, no code, no bombs; a bad sample is named and the others go on."""

import io
import json
import pickle
import shutil
import struct
import tarfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avrt.data.media.clip import ClipSpec
from avrt.data.media.codecs import from_flac, from_jpeg
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet, index_path, index_tar
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_sample


@pytest.fixture
def folder(world, tmp_path):
    return Path(shutil.copytree(world / "val", tmp_path / "shards"))


def test_huge_pictures_and_sounds_are_refused_before_they_are_decoded():
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (40, 40)).save(buffer, "JPEG")
    bomb = bytearray(buffer.getvalue())
    place = bomb.index(b"\xff\xc0") + 5
    bomb[place : place + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BadSampleError, match="pixels"):
        from_jpeg(bytes(bomb))
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(16_000 * 3600, np.int16), 16_000, format="FLAC")
    assert len(silence.getvalue()) < 300_000
    with pytest.raises(BadSampleError, match="more than 1800 s"):
        from_flac(silence.getvalue())


def test_an_index_cannot_point_outside_of_its_shard(folder):
    beside = index_path(folder / "shard-000000.tar")
    index = json.loads(beside.read_bytes())
    for place in ((0, 10**15), (-5, 10), (10**15, 10)):
        index[0][1]["json"] = place
        beside.write_text(json.dumps(index))
        with pytest.raises(AvrtError, match="outside of the shard"):
            ShardSet(folder)


def test_members_with_paths_links_and_devices_go_nowhere(tmp_path):
    """Members are read by place and never unpacked, so that a name is a name."""
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../outside.json", "/etc/cron.d/x.json"):
            data = make_sample("x").to_json()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "/etc/passwd"), (tarfile.CHRTYPE, "")):
            info = tarfile.TarInfo(f"link{kind!r}.json")
            info.type, info.linkname = kind, target
            tar.addfile(info)
    index = index_tar(path)
    assert len(index) == 2
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["evil.tar"]


def test_pickles_are_bytes_like_any_other(folder):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (folder / "sprung",))

    raw = ShardSet(folder).read(0)
    for name in ("pyd", "pickle", "pth", "json", "clip.json", "flac"):
        with pytest.raises(BadSampleError) if name in raw else nullcontext():
            decode_members({**raw, name: pickle.dumps(Trap())})
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("json", b"[" * 100_000),
        ("json", b"{}"),
        ("json", b"\xff\xfe"),
        ("clip.json", b"[" * 100_000),
        ("clip.json", b'{"timestamps": [NaN, 1], "seconds_per_frame": 1.0}'),
        ("clip.json", b'{"timestamps": [0, 1], "seconds_per_frame": -1.0}'),
        ("clip.json", b'{"timestamps": [0, 1e999], "seconds_per_frame": 1.0}'),
        ("clip.json", b'{"timestamps": 5, "seconds_per_frame": 1.0}'),
        ("clip.json", b"[]"),
        ("0.jpg", b"\xff\xd8\xff"),
        ("flac", b"fLaC" + bytes(100)),
    ],
)
def test_senseless_members_cost_their_sample(folder, member, value):
    raw = ShardSet(folder).read(0)
    with pytest.raises(BadSampleError, match="sample 00000000"):
        decode_members({**raw, member: value})


def test_a_member_of_a_hundred_megabytes_is_not_read(tmp_path):
    write_shards([SourceItem(make_sample(f"q{i}"), {}) for i in range(2)], tmp_path / "s", ClipSpec())
    tar = tmp_path / "s" / "shard-000000.tar"
    beside = index_path(tar)
    index = json.loads(beside.read_bytes())
    with tar.open("ab") as file:
        file.truncate(200 << 20)  # a hole: it takes no space
    index[0][1]["clip.json"] = (0, 100 << 20)
    beside.write_text(json.dumps(index))
    shards = ShardSet(tmp_path / "s")
    with pytest.raises(BadSampleError, match="has 104,857,600 bytes"):
        shards.read(0)
    assert shards.read(1)


def test_a_tar_that_is_none_is_named(folder):
    tar = folder / "shard-000000.tar"
    index_path(tar).unlink()
    tar.write_bytes(b"no tar" * 1000)
    with pytest.raises(AvrtError, match=r"shard-000000\.tar"):
        ShardSet(folder)
