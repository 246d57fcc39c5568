"""Remote shards over real connections that are cut, refused and garbled: everything arrives, once, or a clear error."""

import json
import pickle
import shutil
import time
from collections import Counter

import pytest

from avrt.data.loading.mixture import Curriculum, Mixture, MixtureSource
from avrt.data.loading.plans import EpochPlan
from avrt.data.loading.stream import BatchStream
from avrt.data.shards import remote
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.remote import copies
from tests.data.web import Weather, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(copies, "_FIRST_PAUSE", 0.01)


def epoch(address, cache, builder, workers=0, ranks=1, window=0, gigabytes=0.0, ahead=0):
    """The sample ids of one epoch over all ranks."""
    ids = []
    for rank in range(ranks):
        shards = ShardSet(address, cache, gigabytes)
        mixture = Mixture([MixtureSource(address)], [shards])
        plan = EpochPlan(mixture.order(0, True, window, Curriculum()), 4, ranks)
        for batch in BatchStream(mixture, plan, rank, builder, workers, fetch_ahead=ahead):
            assert not batch.skipped
            ids += [s.id for s, valid in zip(batch.samples, batch.valid.tolist(), strict=True) if valid]
    return ids


@pytest.mark.parametrize(("workers", "ranks", "ahead"), [(0, 1, 0), (2, 2, 8)])
def test_an_epoch_survives_a_server_that_cuts_every_tenth_transfer(stored, tmp_path, builder, workers, ranks, ahead):
    everything = sorted(sample.id for sample in ShardSet(stored).samples())
    pieces = max(path.stat().st_size for path in stored.glob("*.tar")) / 16_384
    weather = Weather(cut=1 - 0.9 ** (1 / pieces), fail=0.1)
    for turn in range(6):  # each with an empty cache
        with serving(stored, weather) as address:
            assert sorted(epoch(address, tmp_path / str(turn), builder, workers, ranks, ahead=ahead)) == everything
    assert weather.cuts >= 2
    assert weather.failures >= 2
    assert weather.cuts / weather.transfers < 0.35


def test_a_cut_transfer_goes_on_where_it_was_cut(stored, tmp_path, builder):
    size = sum(path.stat().st_size for path in stored.glob("*.tar")) + (stored / "manifest.json").stat().st_size
    with serving(stored, Weather(cut=0.05)) as address:
        epoch(address, tmp_path / "a", builder)
    weather = Weather(cut=0.05)
    with serving(stored, weather) as address:
        epoch(address, tmp_path / "b", builder)
    assert weather.cuts > 3
    assert weather.sent < 1.5 * size  # without ranges every cut would send the file again
    stubborn = Weather(cut=0.02, ranges=False)
    with serving(stored, stubborn) as address:
        epoch(address, tmp_path / "c", builder)
    assert stubborn.cuts > 0


def test_a_second_epoch_and_other_processes_copy_nothing_again(stored, tmp_path, builder):
    weather = Weather()
    with serving(stored, weather) as address:
        epoch(address, tmp_path, builder, workers=2, ranks=2)
        files = len(list(stored.glob("*.tar")))
        assert weather.transfers == files + 2  # and the manifest, for each rank
        epoch(address, tmp_path, builder)
        assert weather.transfers == files + 3


def test_the_cache_keeps_to_its_limit(stored, tmp_path, builder):
    size = max(path.stat().st_size for path in stored.glob("*.tar"))
    everything = sorted(sample.id for sample in ShardSet(stored).samples())
    weather = Weather()
    with serving(stored, weather) as address:
        limit = 3.5 * size / 1e9
        assert sorted(epoch(address, tmp_path, builder, window=2, gigabytes=limit)) == everything
        kept = sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))
        assert kept <= 3.5 * size
        assert weather.transfers <= 1.5 * len(list(stored.glob("*.tar"))) + 1


def test_what_arrives_damaged_is_copied_again_and_then_refused(stored, tmp_path):
    with serving(stored, Weather(flip={"shard-000001.tar": 1})) as address:
        assert ShardSet(address, tmp_path / "a").sample(7).id == ShardSet(stored).sample(7).id
    with serving(stored, Weather(flip={"shard-000001.tar": 9})) as address:
        shards = ShardSet(address, tmp_path / "b")
        assert shards.sample(0).id
        with pytest.raises(AvrtError, match="not the file that the manifest describes"):
            shards.sample(7)


def test_what_is_not_there_is_one_clear_error(stored, tmp_path):
    with serving(stored, Weather()) as address:
        with pytest.raises(AvrtError, match=r"cannot be fetched.*404"):
            ShardSet(f"{address}/nothing", tmp_path)
        (stored / "bad").mkdir(exist_ok=True)
        (stored / "bad" / "manifest.json").write_text("[1")
        with pytest.raises(AvrtError, match="not a shard manifest"):
            ShardSet(f"{address}/bad", tmp_path)
    with pytest.raises(AvrtError, match=f"after {copies.ATTEMPTS} attempts"):
        ShardSet(address, tmp_path / "gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_goes_away_ends_the_epoch_with_one_line(stored, tmp_path, builder, workers):
    with serving(stored, Weather()) as address:
        shards = ShardSet(address, tmp_path)
    mixture = Mixture([MixtureSource(address)], [shards])
    stream = BatchStream(mixture, EpochPlan(mixture.order(0, True, 0, Curriculum()), 4), 0, builder, workers)
    with pytest.raises(AvrtError) as ended:
        next(iter(stream))
    assert str(ended.value).startswith(f"{address}/shard-0")
    assert "after 8 attempts" in str(ended.value)
    assert "\n" not in str(ended.value)


def test_other_addresses_are_opened_by_fsspec(stored, tmp_path):
    shards = ShardSet(f"file://{stored}/{{name}}", tmp_path)
    assert [sample.id for sample in shards.samples()] == [sample.id for sample in ShardSet(stored).samples()]
    assert Counter(len(v) for v in shards.read(3).values() if isinstance(v, bytes))


def test_no_address_runs_a_command(tmp_path):
    for address in (f"pipe:touch {tmp_path}/owned #{{name}}", f"PIPE:touch {tmp_path}/owned"):
        with pytest.raises(AvrtError, match="addresses that run a command are not opened"):
            ShardSet(address, tmp_path / "cache")
    with pytest.raises(AvrtError, match="is no address"):
        ShardSet(f"simplecache::file://{tmp_path}", tmp_path / "cache")
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_copied_before_they_are_needed(stored, tmp_path, builder, workers):
    """After the first batch nothing more is read from the stream, yet the shards of the next ones arrive."""
    with serving(stored, Weather()) as address:
        mixture = Mixture([MixtureSource(address)], [ShardSet(address, tmp_path)])
        plan = EpochPlan(mixture.order(0, False, 0, Curriculum()), 4)
        batches = iter(BatchStream(mixture, plan, 0, builder, workers, fetch_ahead=16))
        first = next(batches)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*.tar"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list(tmp_path.rglob("*.tar"))) >= 3  # of 6 samples each: 4 were read and 16 announced
    rest = [next(batches) for _ in range(2)]  # the server has gone
    assert [s.id for b in (first, *rest) for s in b.samples] == [ShardSet(stored).sample(i).id for i in range(12)]


def test_what_announced_files_can_be_sent_to_other_processes(stored, tmp_path):
    with serving(stored, Weather()) as address:
        shards = ShardSet(address, tmp_path)
        shards.prefetch(0)
        assert pickle.loads(pickle.dumps(shards)).sample(7).id == ShardSet(stored).sample(7).id


def test_no_server_can_fill_the_disk(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "LARGEST_MANIFEST", 3 << 20)
    (tmp_path / "endless_store").mkdir()
    with (tmp_path / "endless_store" / "manifest.json").open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(AvrtError, match="more bytes than expected"):
        ShardSet(f"file://{tmp_path}/endless_store", tmp_path / "endless")
    folder = tmp_path / "grown"
    shutil.copytree(stored, folder)
    with serving(folder, Weather()) as address:
        shards = ShardSet(address, tmp_path / "cache")
        with (folder / "shard-000000.tar").open("ab") as file:
            file.truncate(50_000_000)
        with pytest.raises(AvrtError, match="more bytes than expected"):
            shards.sample(0)
    copies = [path for cache in ("endless", "cache") for path in (tmp_path / cache).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in copies) < 5_000_000


@pytest.mark.parametrize(
    "name", ["../../x.tar", "a b.tar", "$(touch owned).tar", "a;touch owned", "/etc/passwd", "", 7]
)
def test_a_hostile_manifest_names_no_other_files_and_no_commands(stored, tmp_path, name):
    folder = tmp_path / "hostile"
    shutil.copytree(stored, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for address in (folder, f"file://{folder}"):
        with pytest.raises(AvrtError, match=r"not a plain name|not a shard manifest"):
            ShardSet(address, tmp_path / "cache")
    assert not list(tmp_path.rglob("owned"))


def test_updated_shards_are_not_taken_from_the_cache(stored, tmp_path):
    folder = tmp_path / "served"
    shutil.copytree(stored, folder)
    with serving(folder, Weather()) as address:
        assert ShardSet(address, tmp_path / "cache").sample(0).id == ShardSet(stored).sample(0).id
        manifest = Manifest.load(folder)
        first, second = manifest.shards[0]["file"], manifest.shards[1]["file"]
        shutil.copy(folder / second, folder / first)
        manifest.shards[0] = {**manifest.shards[1], "file": first}
        manifest.save(folder)
        assert ShardSet(address, tmp_path / "cache").sample(0).id == ShardSet(stored).sample(6).id
