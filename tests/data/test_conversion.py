"""Converting with several processes, after kills, and of hostile files: the same bytes, and nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from avrt.commands import shards as shards_command
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.isolation import Limits
from avrt.data.sample import Modality
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.manifest import JOURNAL, MANIFEST, Manifest
from avrt.data.shards.merging import find_parts, merge_parts
from avrt.data.shards.reader import ShardSet, read_bytes
from avrt.data.shards.slices import Slice, part_folder
from avrt.errors import AvrtError, BadSampleError
from avrt.remote.stores import store
from avrt.remote.uploads import Destination
from tests.conftest import make_clip, make_sample

SPEC = ClipSpec(frames=4, audio_seconds=1.0, budget=FrameBudget(56 * 56, 112 * 112))
ROWS = 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder in the layout of the recipe `folder`: 60 questions about 20 clips, some damaged, some missing."""
    root = tmp_path_factory.mktemp("dataset")
    (root / "media").mkdir()
    for i in range(20):
        clip = make_clip(root / "media" / f"{i}.mp4", frames=12 + i, size=(64 + 2 * i, 48), tone=200.0 + 50 * i)
        if i % 7 == 3:
            clip.write_bytes(clip.read_bytes()[:400])
        if i % 9 == 5:
            clip.unlink()
    rows = [
        {
            "id": f"q{i:03d}", "question": f"What is it, {i}?", "choices": ["x", "y"], "answer": "B",
            "video": f"media/{i % 20}.mp4",
        }
        for i in range(ROWS)
    ]  # fmt: skip
    rows[7]["choices"] = ["only one"]
    rows[30]["id"] = "q029"
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def avrt(root: Path, out: Path, *extra: object) -> list[str]:
    return [
        sys.executable, "-m", "avrt", "shards", "folder", "--root", str(root), "--out", str(out), "--frames", "4",
        "--audio-seconds", "1", "--min-pixels", "3136", "--max-pixels", "12544", "--samples-per-shard", "8",
        *map(str, extra),
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "shards"
    subprocess.run(avrt(dataset, out, "--workers", 1), check=True, capture_output=True)
    return out


def test_the_bytes_do_not_depend_on_the_number_of_processes(dataset, whole, tmp_path):
    subprocess.run(avrt(dataset, tmp_path / "two", "--workers", 2), check=True, capture_output=True)
    assert contents(tmp_path / "two") == contents(whole)
    manifest = Manifest.load(whole)
    assert manifest.samples + len(manifest.skipped) == ROWS
    assert len(manifest.shards) > 4
    assert manifest.recipe["annotations"]["questions.jsonl"]


@pytest.mark.parametrize("kills", [2])
def test_killed_and_resumed_gives_the_same_bytes_and_redoes_no_finished_shard(dataset, whole, tmp_path, kills):
    out = tmp_path / "killed"
    for kill in range(kills):
        process = subprocess.Popen(avrt(dataset, out, "--workers", 2, "--resume"), stderr=subprocess.DEVNULL)
        wanted = kill + 1
        while len(list(out.glob("shard-*.tar"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / MANIFEST).exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    assert len(finished) >= kills
    refused = subprocess.run(avrt(dataset, out), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    other = subprocess.run(avrt(dataset, out, "--resume", "--limit", 9), capture_output=True, text=True, check=False)
    assert "was begun with" in other.stderr
    subprocess.run(avrt(dataset, out, "--workers", 2, "--resume"), check=True, capture_output=True)
    assert contents(out) == contents(whole)
    journaled = sorted(finished)[: len(finished) - 1]  # the last may have been renamed but not yet recorded
    assert all(path.stat().st_mtime_ns == finished[path] for path in journaled)
    again = subprocess.run(avrt(dataset, out, "--resume"), capture_output=True, text=True, check=True)
    assert f"{Manifest.load(whole).samples} samples" in again.stdout


def test_two_writers_do_not_meet(tmp_path):
    def items():
        yield SourceItem(make_sample("a"), {})
        with pytest.raises(AvrtError, match="another process"):
            write_shards([], tmp_path, SPEC, resume=True)
        yield SourceItem(make_sample("b"), {})

    assert write_shards(items(), tmp_path, SPEC).samples == 2


def test_a_finished_shard_that_changed_is_noticed(tmp_path):
    clips = [make_clip(tmp_path / f"{name}.mp4", frames=12) for name in "ab"]
    items = [SourceItem(make_sample(f"q{i}"), {Modality.VIDEO: clips[i % 2]}) for i in range(6)]
    out = tmp_path / "out"

    def stopped():
        yield from items[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(stopped(), out, SPEC, samples_per_shard=2)
    assert (out / JOURNAL).exists()
    assert not list(out.glob("*.partial"))
    tar = out / "shard-000001.tar"
    kept = tar.read_bytes()
    tar.write_bytes(kept[:-512])
    with pytest.raises(AvrtError, match="missing or was changed"):
        write_shards(items, out, SPEC, samples_per_shard=2, resume=True)
    tar.write_bytes(kept)
    assert write_shards(items, out, SPEC, samples_per_shard=2, resume=True).samples == 6
    assert [sample.id for sample in ShardSet(out).samples()] == [f"q{i}" for i in range(6)]


def test_files_that_take_too_long_or_are_no_files_cost_themselves_alone(tmp_path):
    fifo = tmp_path / "endless.mp4"
    os.mkfifo(fifo)  # opening it would wait for ever
    slow = make_clip(tmp_path / "slow.mkv", frames=400, size=(1280, 720))
    items = [
        SourceItem(make_sample("fifo"), {Modality.VIDEO: fifo}),
        SourceItem(make_sample("slow"), {Modality.VIDEO: slow}),
        BadSampleError("field 'answer' is missing", where="row 4"),
        SourceItem(make_sample("text"), {}),
    ]
    manifest = write_shards(items, tmp_path / "out", SPEC, workers=1, limits=Limits(seconds=0.1))
    assert set(manifest.skipped) == {"fifo", "slow", "row 4"}
    assert "longer than 0.1 s" in manifest.skipped["slow"]
    assert manifest.samples == 1


def test_parts_are_merged_to_the_bytes_of_one_run(dataset, whole, tmp_path, capsys):
    """Damaged and missing clips, rows that cannot be used, shards whose bounds are not those of parts."""
    parts = tmp_path / "parts"
    for i in (3, 1, 4, 2):
        shards_command.main(avrt(dataset, parts, "--workers", 1, "--part", f"{i}/4")[4:])
    assert f"avrt shards merge {parts} --out {parts}-merged" in " ".join(capsys.readouterr().out.split())
    merged = tmp_path / "merged"
    shards_command.main(["merge", str(parts), "--out", str(merged)])
    assert contents(merged) == contents(whole)
    assert len(Manifest.load(whole).skipped) > 10
    with pytest.raises(AvrtError, match="already holds shards"):
        shards_command.main(["merge", str(parts), "--out", str(merged)])
    for other in ("--dry_run", "--explain"):
        with pytest.raises(AvrtError, match=f"--part: does nothing with {other}"):
            shards_command.main(avrt(dataset, parts, "--part", "1/4", other)[4:])
    for wrong in ("0/4", "5/4", "1", "1/4/2"):
        with pytest.raises(AvrtError, match=r"is not a part .give i/n with i from 1 to n"):
            shards_command.main(avrt(dataset, parts, "--part", wrong)[4:])


def odd_items(folder: Path) -> list[SourceItem | BadSampleError]:
    """Ids that occur again in other parts, in the same one and as the names of errors, and errors without a name."""
    good, short = make_clip(folder / "good.mp4", frames=12), make_clip(folder / "short.mp4", frames=12)
    short.write_bytes(short.read_bytes()[:300])
    items: list[SourceItem | BadSampleError] = [
        SourceItem(make_sample(f"q{i % 7}", metadata={"row": i}), {Modality.VIDEO: short if i in (2, 16) else good})
        for i in range(18)
    ]
    for place, where in ((3, None), (5, "q1"), (9, "q1 (2)"), (12, None), (13, "q1"), (17, "x [item 3]")):
        items.insert(place, BadSampleError("field 'answer' is missing", where=where))
    return items


def write_parts(items, out: Path, count: int, samples_per_shard: int = 3, **options) -> None:
    for i in range(1, count + 1):
        part = Slice.cut(i, count, len(items), samples_per_shard)
        folder = part_folder(out, i, count)
        write_shards(items, folder, SPEC, samples_per_shard=samples_per_shard, part=part, **options)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_what_depends_on_other_parts_is_decided_by_the_merge(tmp_path, count):
    items = odd_items(tmp_path)
    whole = write_shards(items, tmp_path / "whole", SPEC, recipe={"name": "r"}, samples_per_shard=3, keep_original=True)
    assert whole.samples == 7
    assert len(whole.skipped) == len(items) - 7
    write_parts(items, tmp_path / "parts", count, recipe={"name": "r"}, keep_original=True)
    merge_parts(find_parts(tmp_path / "parts"), tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_a_merge_that_was_stopped_is_continued(tmp_path):
    items = odd_items(tmp_path)
    write_shards(items, tmp_path / "whole", SPEC, samples_per_shard=2)
    write_parts(items, tmp_path / "parts", 4, samples_per_shard=2)
    parts, out = find_parts(tmp_path / "parts"), tmp_path / "merged"

    def stop(done: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_parts(parts, out, progress=stop)
    assert (out / "shard-000000.tar").is_file()
    with pytest.raises(AvrtError, match="unfinished shards"):
        merge_parts(parts, out)
    merge_parts(parts, out, resume=True)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_merge_that_was_stopped_in_its_upload_is_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    items = odd_items(tmp_path)
    write_parts(items, tmp_path / "parts", 3)
    address = f"memory://{tmp_path.name}/merged"
    staging = Destination(address, MANIFEST).folder
    merge_parts(find_parts(tmp_path / "parts"), staging)
    merged = contents(staging)
    shutil.rmtree(part_folder(tmp_path / "parts", 2, 3))  # all that is needed of it is joined
    again = ["merge", str(tmp_path / "parts"), "--out", address, "--resume"]
    for _ in range(2):  # the second time everything is there
        shards_command.main(again)
        fs, path = store(address)
        assert {Path(name).name: fs.cat_file(name) for name in fs.ls(path, detail=False)} == merged
    assert not staging.exists()


def test_a_member_beyond_what_one_read_returns_is_read_whole(tmp_path, monkeypatch):
    pread, data = os.pread, bytes(range(200))
    (tmp_path / "large").write_bytes(data)
    # the system's limit of 2 GiB, made small; the same was tried with a file of that size
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 64), offset))
    with (tmp_path / "large").open("rb") as file:
        assert read_bytes(file, 7, 190) == data[7:197]
        assert read_bytes(file, 7, 0) == b""
        with pytest.raises(AvrtError, match=r"ends 3 bytes before its index says .*make the shards again"):
            read_bytes(file, 7, 196)


def test_parts_of_another_version_are_refused(tmp_path):
    write_parts(odd_items(tmp_path), tmp_path / "parts", 2)
    for path in (tmp_path / "parts").glob(f"*/{MANIFEST}"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "avrt": "0.0.9"}))
    with pytest.raises(AvrtError, match=r"was made by avrt 0.0.9, this is .*merge with the version that made"):
        find_parts(tmp_path / "parts")


def test_parts_that_are_not_all_of_one_conversion_are_refused(tmp_path):
    items, out = odd_items(tmp_path), tmp_path / "parts"
    with pytest.raises(AvrtError, match="holds no parts"):
        find_parts(out)
    write_parts(items, out, 4)
    third = part_folder(out, 3, 4)
    away = tmp_path / "away"
    third.rename(away)
    with pytest.raises(AvrtError, match=r"has 3 of 4 parts, without 3 .*make it with --part 3/4"):
        find_parts(out)
    shutil.copytree(part_folder(out, 2, 4), out / "copy")
    with pytest.raises(AvrtError, match="part 2 of 4 is there twice"):
        find_parts(out)
    shutil.rmtree(out / "copy")
    part = Slice.cut(3, 4, len(items), 3)
    for options, message in (
        ({"recipe": {"limit": 5}, "part": part}, "recipe.limit 5, part-00001-of-00004 with None"),
        ({"part": replace(part, samples_per_shard=4)}, "samples_per_shard 4"),
        ({"part": Slice.cut(3, 4, len(items) - 4, 3)}, "does not begin where part-00002-of-00004 ends"),
        ({"part": Slice.cut(3, 5, len(items), 3)}, "parts 5"),
    ):
        write_shards(items, third, SPEC, **options)
        with pytest.raises(AvrtError, match=message):
            find_parts(out)
        shutil.rmtree(third)
    write_shards(items, third, replace(SPEC, frames=6), part=part)
    with pytest.raises(AvrtError, match=r"spec.frames 6, part-00001-of-00004 with 4"):
        find_parts(out)
    shutil.rmtree(third)
    away.rename(third)
    (third / MANIFEST).rename(third / JOURNAL)
    with pytest.raises(AvrtError, match=r"is an unfinished part .finish it with --resume"):
        find_parts(out)
    (third / JOURNAL).rename(third / MANIFEST)
    tar = third / "shard-000000.tar"
    if tar.exists():
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(AvrtError, match="not the file that the manifest describes"):
        merge_parts(find_parts(out), tmp_path / "merged")
