"""Workers with folders of their own share a store in PostgreSQL; two are killed; the end is that of one process."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from avrt.packaged import packaged
from avrt.traces.database import rows
from avrt.traces.store_place import read_place
from tests.conftest import avrt
from tests.traces.servers import serving, write_config, write_questions

SAMPLES = 810
OF_RUN = ("folder", "run")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions") / "shards", SAMPLES)


@pytest.fixture(scope="module")
def alone(questions, tmp_path_factory):
    """The trace folder of one process with SQLite."""
    home = tmp_path_factory.mktemp("alone")
    with serving(home, log=False) as server:
        config = write_config(home / "c.yaml", server.url, backend={"timeout": 60.0, "concurrency": 32}, val_share=0.2)
        avrt("traces", "run", "--config", config, "--data", questions, "--out", home / "traces")
    avrt("traces", "stats", home / "traces")
    return home / "traces"


def table(place, name):
    """A table without what names the run, in the order of samples."""
    found = [{k: v for k, v in row.items() if k not in OF_RUN} for row in rows(place, f"SELECT * FROM {name}")]
    return sorted(found, key=lambda row: (row["sample"], row.get("teacher")))


def test_killed_workers_are_replaced_and_the_end_is_that_of_one_process(questions, alone, cluster, tmp_path):
    address = cluster.new()
    place, begun = read_place(address), time.monotonic()
    generator = random.Random(0)
    with serving(tmp_path, "--delay", 0.25) as server:
        config = write_config(
            tmp_path / "c.yaml", server.url, backend={"timeout": 60.0, "concurrency": 4}, val_share=0.2
        )

        def start(number):
            """A worker on a machine of its own: its own copy of the questions, its own folder."""
            home = tmp_path / f"machine{number}"
            shutil.copytree(questions, home / "shards")
            command = ["--config", config, "--data", home / "shards", "--out", home / "traces", "--store", address]
            return subprocess.Popen(
                [sys.executable, "-m", "avrt", "traces", "run", *map(str, command), "--stages", "[teach,merge]"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

        workers = [start(number) for number in range(3)]
        kills = []
        for number, share in ((3, generator.uniform(0.1, 0.3)), (4, generator.uniform(0.3, 0.45))):
            while len(server.records("sent")) < share * 2000:
                time.sleep(0.05)
            victim = workers.pop(0)
            victim.send_signal(signal.SIGSTOP)  # to see what it is at: it still holds its claims, and nobody takes them
            time.sleep(0.2)  # for what the database was about to write
            found = list(rows(place, "SELECT key, status, owner, role, sample FROM calls"))
            at_work = {r["key"] for r in found if r["status"] == "running" and f":{victim.pid}:" in r["owner"]}
            kills.append((time.time(), {r["key"] for r in found if r["status"] == "done"}, at_work))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            workers.append(start(number))
        told = [worker.communicate(timeout=300) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0], told
        took = time.monotonic() - begun
        requests = server.records("request")

    numbered = {f"What is number {i}?": f"q{i:05d}" for i in range(SAMPLES)}
    keys = {(r["role"], r["sample"]): r["key"] for r in rows(place, "SELECT role, sample, key FROM calls")}
    asked = Counter(keys[r["model"], numbered[r["question"]]] for r in requests)
    # none is lost, none is left, and none was made that one process does not make
    kept = {r["key"]: r["status"] for r in rows(place, "SELECT key, status FROM calls")}
    assert kept == {r["key"]: "done" for r in rows(alone, "SELECT key FROM calls")}
    assert len(kept) >= 2000
    assert asked.keys() == kept.keys()
    # a killed worker's claims went to others: what it had sent was made again, and nothing else, nor anything finished
    by_moment = [(r["at"], keys[r["model"], numbered[r["question"]]]) for r in requests]
    twice = {key for key, times in asked.items() if times > 1}
    claimed, sent = set(), set()
    for moment, done, at_work in kills:
        claimed |= at_work
        sent |= at_work & {key for at, key in by_moment if at < moment}
        assert not done & {key for at, key in by_moment if at > moment}
    assert max(asked.values()) <= 3
    assert sent
    assert sent <= twice <= claimed
    made = [int(line.split()[1]) for out, _ in told for line in out.splitlines() if line.startswith("  visual:")]
    assert len(made) == 3
    assert min(made) > 0, made  # the replacements had work to do
    summary = [line for out, _ in told for line in out.splitlines() if " samples: " in line]
    assert len(set(summary)) == 1
    print(
        f"{len(kept)} calls in {took:.0f} s by 3 workers, {sum(asked.values()) - len(kept)} of them made again, as "
        f"{len(sent)} were on their way at the kills ({len(claimed)} claimed)"
    )

    for name in ("outcomes", "verdicts"):
        assert table(place, name) == table(alone, name)
    # any machine exports, without a call
    last = tmp_path / "last" / "traces"
    done = avrt(
        "traces", "run", "--config", config, "--data", questions, "--out", last, "--store", address, "--stages",
        "[export]",
    )  # fmt: skip
    assert "shared by all workers" in done.stdout
    for name in ("traces.jsonl", "difficulty.jsonl", "shards/train/shard-000000.tar", "shards/val/shard-000000.tar"):
        assert (last / name).read_bytes() == (alone / name).read_bytes()
    assert "postgresql" in json.loads((last / "run.json").read_text())["store"]
    avrt("traces", "stats", last)
    stats, expected = (json.loads((folder / "stats.json").read_text()) for folder in (last, alone))
    for found in (stats, expected):
        del found["run"]
        for calls in found["calls"].values():
            del calls["seconds"]
    assert stats == expected
    shown, as_expected = (avrt("traces", "show", folder, "--id", "q00003").stdout for folder in (last, alone))
    assert shown.splitlines()[:-2] == as_expected.splitlines()[:-2]


def test_a_later_worker_leaves_out_what_is_decided(questions, cluster, tmp_path):
    address = cluster.new()
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        words = packaged("avrt.traces", "templates").joinpath("visual.txt").read_text()
        (tmp_path / "visual.txt").write_text(words)

        def run(number):
            home = tmp_path / str(number)
            command = ["--config", config, "--data", questions, "--out", home / "traces", "--store", address]
            stages = ("--limit", 300, "--stages", "[teach,merge]", "--visual.template", tmp_path / "visual.txt")
            told = avrt("traces", "run", *command, *stages).stdout
            return [line for line in told.splitlines() if line.startswith(("processed", "  ")) or " samples: " in line]

        first = run(1)
        cluster.run(address, "UPDATE outcomes SET status = 'waiting', reason = 'x' WHERE position IN (7, 290)")
        asked = len(server.records("request"))
        second = run(2)
        assert len(server.records("request")) == asked
        assert [line for line in second if " samples: " in line] == [line for line in first if " samples: " in line]
        assert [line.strip() for line in second if "visual:" in line] == ["visual: 0 calls made, 2 in store, 0 failed"]
        # another text in a template of the same name asks again
        (tmp_path / "visual.txt").write_text(words.replace("[user]\n", "[user]\nLook closely.\n"))
        third = run(3)
        assert [line.strip() for line in third if "visual:" in line] == ["visual: 300 calls made, 0 in store, 0 failed"]


def test_an_id_that_no_index_takes_fails_alone(questions, cluster, tmp_path):
    source, long = ShardSet(questions), "x".join(map(str, range(2000)))
    with ShardWriter(tmp_path / "data", source.manifest.spec) as writer:
        for i in range(12):
            members = {
                name: data for name, data in source.read(i).items() if not name.startswith("__") and name != "json"
            }
            sample = source.sample(i)
            writer.write(replace(sample, id=long) if i == 3 else sample, members)
    with serving(tmp_path, log=False) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        address, out = cluster.new(), tmp_path / "traces"
        told = avrt(
            "traces", "run", "--config", config, "--data", tmp_path / "data", "--out", out, "--store", address
        ).stdout
    assert "12 samples: " in told
    failed = [
        dict(row) for row in rows(read_place(address), "SELECT sample, reason FROM outcomes WHERE status = 'failed'")
    ]
    assert [row["sample"] for row in failed] == ["shard-000000.tar, sample 00000003"]
    assert "longer than the 2000 bytes" in failed[0]["reason"]


def test_stores_that_cannot_be_used_are_refused_in_one_line(questions, cluster, tmp_path):
    latin = cluster.new("--encoding", "LATIN1", "--template", "template0")
    newer = cluster.new()
    with serving(tmp_path, log=False) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--limit", 2, "--out", tmp_path / "traces")
        avrt(*common, "--store", newer, check=False)  # of two samples none is kept
        cluster.run(newer, "UPDATE store_version SET version = 99")
        for store, message in (
            ("mysql://host/db", "mysql://host/db (name a folder, or a database as in postgresql://"),
            ("postgresql://me:secret@host/db", "has a password in it"),
            (
                f"postgresql://avrt@/nowhere?host={cluster.folder}&port={cluster.port}",
                'database "nowhere" does not exist',
            ),
            ("postgresql://avrt@127.0.0.1:1/db", "refused"),
            (latin, "its texts are LATIN1, not UTF8"),
            (newer, "is a store of version 99"),
        ):
            done = avrt(*common, "--store", store, check=False)
            assert done.returncode == 2
            assert message in done.stderr
            assert "secret" not in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
