"""The whole pipeline by its command, with a server in its own process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from avrt.traces.database import rows
from tests.conftest import avrt
from tests.traces.servers import free_port, serving, write_config, write_questions


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions") / "shards", 60)


def outcomes(out):
    return {r["sample"]: dict(r) for r in rows(out, "SELECT * FROM outcomes")}


def calls(out):
    return Counter(r["role"] for r in rows(out, "SELECT role FROM calls WHERE status = 'done'"))


def test_a_run_from_questions_to_shards(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url, val_share=0.2, label_all=True)
        avrt("traces", "run", "--config", config, "--data", questions, "--out", out)
        requests = server.records("request")
        avrt("traces", "run", "--config", config, "--data", questions, "--out", out)
        assert len(server.records("request")) == len(requests)  # nothing is asked twice
    by_role = {role: [r for r in requests if r["model"] == role] for role in ("visual", "audio", "merger")}

    # each teacher saw its own sense and nothing else, as the server received it
    assert {(r["pictures"], len(r["sounds"])) for r in by_role["visual"]} == {(8, 0)}
    assert {(r["pictures"], tuple(r["sounds"])) for r in by_role["audio"]} == {(0, (0.5,))}
    assert {(r["pictures"], len(r["sounds"])) for r in by_role["merger"]} == {(0, 0)}
    assert len(by_role["visual"]) == len(by_role["audio"]) == 60
    # the right answer went to the merger only
    assert all("Correct option" in r["prompt"] for r in by_role["merger"])
    assert not any("orrect option" in r["prompt"] + str(r["system"]) for r in by_role["visual"] + by_role["audio"])

    # no kept sample has a teacher who was wrong, by a query; and the merger was asked about kept ones only
    wrong = "SELECT count(*) n FROM outcomes o JOIN verdicts v USING (sample) WHERE o.status = 'kept' AND NOT v.correct"
    assert next(rows(out, wrong))["n"] == 0
    found = outcomes(out)
    kept = {name for name, o in found.items() if o["status"] == "kept"}
    assert 0 < len(kept) < 60
    assert {r["question"] for r in by_role["merger"]} == {f"What is number {int(name[1:])}?" for name in kept}
    assert all(o["reason"] for o in found.values() if o["status"] != "kept")

    train, val = ShardSet(out / "shards" / "train"), ShardSet(out / "shards" / "val")
    assert {s.id for s in [*train.samples(), *val.samples()]} == kept
    assert len(val) > 0
    sample, clip = decode_members(train.read(0))
    assert sample.trace.startswith("<think>")
    assert sample.metadata["difficulty"] == "easy"
    original = questions_by_id(questions)[sample.id]
    assert train.read(0)["0.jpg"] == original["0.jpg"]  # media are copied, not compressed again
    assert clip.frames.shape[0] == 8

    labelled = {s.id: s.metadata["difficulty"] for s in ShardSet(out / "labelled").samples()}
    assert labelled == {name: o["difficulty"] for name, o in found.items()}
    assert set(labelled.values()) == {"easy", "medium", "hard"}
    lines = [json.loads(line) for line in (out / "difficulty.jsonl").read_text().splitlines()]
    assert {r["id"]: r["difficulty"] for r in lines} == labelled


def questions_by_id(questions):
    shards = ShardSet(questions)
    return {shards.sample(i).id: shards.read(i) for i in range(len(shards))}


def test_another_merger_needs_no_teacher_call(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path, "--models", "visual", "audio", "merger", "merger-2") as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        avrt("traces", "run", "--config", config, "--data", questions, "--out", out)
        before = Counter(r["model"] for r in server.records("request"))
        other = ("--merger.backend.model", "merger-2")
        avrt("traces", "run", "--config", config, "--data", questions, "--out", out, *other)
        after = Counter(r["model"] for r in server.records("request"))
        assert after - before == Counter({"merger-2": before["merger"]})


def test_stages_run_alone_and_filters_change_without_calls(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        avrt(*common, "--stages", "[teach]")
        assert calls(out) == {"visual": 60, "audio": 60}
        assert {o["status"] for o in outcomes(out).values()} == {"waiting", "dropped"}
        assert not (out / "shards").exists()
        avrt(*common, "--stages", "[merge,export]")
        kept = sum(o["status"] == "kept" for o in outcomes(out).values())
        assert calls(out)["merger"] == kept > 0
        avrt(*common, "--filter", "any_correct")
        more = {name: o for name, o in outcomes(out).items() if o["status"] == "kept"}
        assert len(more) > kept
        assert {o["difficulty"] for o in more.values()} == {"easy", "medium"}
        asked = Counter(r["model"] for r in server.records("request"))
        assert asked == {"visual": 60, "audio": 60, "merger": len(more)}


def test_more_teachers_votes_and_thinking_in_a_field_of_its_own(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path, "--models", "visual", "audio", "merger", "audio-thinking") as server:
        config = yaml.safe_load(write_config(tmp_path / "c.yaml", server.url).read_text())
        third = json.loads(json.dumps(config["audio"]))
        third["backend"]["init_args"]["model"] = "audio-thinking"
        third.update(name="music", senses=["audio", "vision"], samples=3, sampling={"temperature": 0.7, "seed": 5})
        config["further_teachers"] = [third]
        config["merger"]["template"] = "merger_any.txt"
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        common = ("--config", tmp_path / "c.yaml", "--data", questions, "--out", out, "--limit", 20)
        avrt("traces", "run", *common)
        asked = [r for r in server.records("request") if r["model"] == "audio-thinking"]
    assert len(asked) == 3 * 20
    assert {(r["pictures"], len(r["sounds"])) for r in asked} == {(8, 1)}
    verdicts = list(rows(out, "SELECT * FROM verdicts WHERE teacher = 'music'"))
    assert {len(json.loads(v["votes"])) for v in verdicts} == {3}
    seeds = {json.loads(r["sampling"])["seed"] for r in rows(out, "SELECT sampling FROM calls WHERE role = 'music'")}
    assert seeds == {5, 6, 7}
    thoughts = {r["reasoning"] for r in rows(out, "SELECT reasoning FROM calls WHERE role = 'music'")}
    assert thoughts == {"Let me look at it for a while."}


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_of_a_server_lose_no_sample(questions, tmp_path, workers):
    """HTTP 429, 500, hang, cut connection, empty answer, malformed JSON: a fifth of all attempts fails."""
    out = tmp_path / "out"
    with serving(tmp_path, "--fail_percent", 20) as server:
        config = write_config(tmp_path / "c.yaml", server.url, backend={"attempts": 3, "timeout": 2.0})
        done = avrt("traces", "run", "--config", config, "--data", questions, "--out", out, "--workers", workers)
        seen = Counter(r["fault"] for r in server.records("request"))
    assert set(seen) == {None, "429", "500", "hang", "cut", "empty", "malformed"}
    found = outcomes(out)
    assert set(found) == {f"q{i:05d}" for i in range(60)}
    states = Counter(r["status"] for r in rows(out, "SELECT status FROM calls"))
    assert set(states) <= {"done", "failed"}
    failed = {r["sample"] for r in rows(out, "SELECT sample FROM calls WHERE status = 'failed'")}
    assert failed == {name for name, o in found.items() if o["status"] == "failed"}
    assert all(o["reason"] for o in found.values() if o["status"] == "failed")
    assert "60 samples" in done.stdout


def test_a_damaged_sample_and_one_without_an_answer_fail_alone(questions, tmp_path):
    source = ShardSet(questions)
    with ShardWriter(tmp_path / "data", source.manifest.spec) as writer:
        for i in range(6):
            sample = source.sample(i)
            members = {
                name: data for name, data in source.read(i).items() if name not in ("__key__", "__url__", "json")
            }
            if i == 2:
                members["flac"] = members["flac"][:30]
            writer.write(replace(sample, answer=None) if i == 4 else sample, members)
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        told = avrt("traces", "run", "--config", config, "--data", tmp_path / "data", "--out", out).stdout
    found = outcomes(out)
    assert len(found) == 6
    assert "audio cannot be read" in found["q00002"]["reason"]
    unreadable = next(o for name, o in found.items() if name.startswith("shard-000000.tar"))
    assert "no right answer" in unreadable["reason"]
    assert sum(o["status"] == "failed" for o in found.values()) == 2
    assert "2 failed" in told


def test_a_killed_run_repeats_no_finished_call(questions, tmp_path):
    """Killed with -9 five times: the calls are those of an uninterrupted run, and no stored call is repeated."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    generator = random.Random(0)
    with serving(tmp_path, "--delay", 0.05) as server:
        config = write_config(tmp_path / "c.yaml", server.url, backend={"concurrency": 2})
        arguments = ["traces", "run", "--config", config, "--data", questions, "--out"]
        command = [sys.executable, "-m", "avrt", *map(str, arguments)]
        kept_at_kill = []
        for _ in range(5):
            before = len(server.records("sent"))
            process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wanted = before + generator.randint(5, 25)
            while len(server.records("sent")) < wanted and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            done = {r["key"] for r in rows(out, "SELECT key FROM calls WHERE status = 'done'")}
            kept_at_kill.append((time.time(), done))
        assert len(kept_at_kill[-1][1]) < 150
        avrt(*arguments, out)
        requests, sent = server.records("request"), server.records("sent")
        avrt(*arguments, whole)
        unbroken = server.records("request")[len(requests) :]

    def name(record):
        return record["model"], record["question"]

    assert {name(r) for r in requests} == {name(r) for r in unbroken}
    assert {r["key"] for r in rows(out, "SELECT key FROM calls")} == {
        r["key"] for r in rows(whole, "SELECT key FROM calls")
    }
    # what was on disk at a kill was never asked for after it
    number = {f"What is number {i}?": f"q{i:05d}" for i in range(60)}
    keys = {(r["role"], r["sample"]): r["key"] for r in rows(out, "SELECT * FROM calls")}
    for moment, done in kept_at_kill:
        later = {keys[r["model"], number[r["question"]]] for r in requests if r["at"] > moment}
        assert not later & done
    # at most what was on its way at a kill was asked for twice, and replies that were received were not
    again = sum(n - 1 for n in Counter(name(r) for r in requests).values())
    assert again <= 5 * 6
    twice = sum(n - 1 for n in Counter(name(r) for r in sent).values())
    print(f"requests repeated because they were on their way: {again}; replies sent twice: {twice}")


def test_two_processes_share_a_store(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path, "--delay", 0.1) as server:
        config = write_config(tmp_path / "c.yaml", server.url, backend={"concurrency": 2})
        command = [sys.executable, "-m", "avrt", "traces", "run", "--config", config, "--data", questions, "--out", out]
        both = [subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate(timeout=120)[0] for process in both]
        asked = Counter((r["model"], r["question"]) for r in server.records("request"))
    assert [process.returncode for process in both] == [0, 0], told
    assert set(asked.values()) == {1}
    assert len(outcomes(out)) == 60
    made = [int(line.split()[1]) for text in told for line in text.splitlines() if "visual:" in line]
    assert sum(made) == 60
    assert min(made) > 5  # both had work to do


def test_a_server_that_goes_away_ends_the_run_and_the_next_one_goes_on(questions, tmp_path):
    out, port = tmp_path / "out", free_port()
    config = write_config(tmp_path / "c.yaml", f"http://127.0.0.1:{port}/v1", backend={"concurrency": 2})
    arguments = ("traces", "run", "--config", config, "--data", questions, "--out", out)
    done = avrt(*arguments, check=False)
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with serving(tmp_path, "--delay", 0.05, port=port) as server:
        command = [sys.executable, "-m", "avrt", *map(str, arguments)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(server.records("sent")) < 20:
            time.sleep(0.02)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "no answer for" in told
    assert len(told.strip().splitlines()) == 1
    kept = sum(calls(out).values())
    assert kept >= 18
    with serving(tmp_path, port=port) as server:
        begun = len(server.records("request"))
        avrt(*arguments)
        assert len(server.records("request")) - begun == sum(calls(out).values()) - kept
    assert {o["status"] for o in outcomes(out).values()} == {"kept", "dropped"}


def test_requests_are_spread_over_endpoints(questions, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with serving(tmp_path / "a", "--delay", 0.05) as one, serving(tmp_path / "b", "--delay", 0.05) as other:
        config = write_config(tmp_path / "c.yaml", [one.url, other.url], stages=["teach"])
        avrt("traces", "run", "--config", config, "--data", questions, "--out", tmp_path / "out")
        counts = [len(server.records("request")) for server in (one, other)]
    assert sum(counts) == 120
    assert min(counts) > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--visual.backend.model", "nope"), "does not serve nope"),
        (("--merger.template", "visual.txt"), "placeholder"),
        (("--visual.template", "none.txt"), "no such template"),
        (("--visual.samples", "3"), "temperature 0"),
        (("--merger.reads", "[speech]"), "no teacher is called speech"),
        (("--data", "nowhere"), "nowhere"),
        (("--visual.backend.concurency", "3"), "concurency"),
        (("--filter", "bth"), "bth"),
    ],
)
def test_wrong_settings_give_one_line(questions, tmp_path, arguments, message):
    with serving(tmp_path, log=False) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("--config", config, "--data", questions, "--out", tmp_path / "out")
        done = avrt("traces", "run", *common, *arguments, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_interrupt_ends_quietly(questions, tmp_path):
    with serving(tmp_path, "--delay", 0.2) as server:
        config = write_config(tmp_path / "c.yaml", server.url, backend={"concurrency": 1})
        command = ["traces", "run", "--config", config, "--data", questions, "--out", tmp_path / "out"]
        process = subprocess.Popen(
            [sys.executable, "-m", "avrt", *map(str, command)], stderr=subprocess.PIPE, text=True, env={**os.environ},
            # a shell that runs the tests in the background has them, and all that they start, ignore interrupts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        while len(server.records("request")) < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert told == "avrt: interrupted\n"


def test_statistics_show_and_parquet(questions, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        avrt("traces", "run", "--config", config, "--data", questions, "--out", out)
    told = avrt("traces", "stats", out).stdout
    assert "Keep rate" in told
    stats = json.loads((out / "stats.json").read_text())
    found = outcomes(out)
    kept = sum(o["status"] == "kept" for o in found.values())
    assert stats["keep_rate"]["both_correct"] == round(100 * kept / 60, 1)
    assert stats["keep_rate"]["none"] == 100.0
    both = sum(stats["difficulty"].values())
    assert both == 60
    assert stats["agreement"]["audio / visual"]["both right"] == stats["difficulty"]["easy"] == kept
    right = {r["teacher"]: r["n"] for r in rows(out, "SELECT teacher, sum(correct) n FROM verdicts GROUP BY teacher")}
    assert stats["teachers"]["visual"]["accuracy"] == round(100 * right["visual"] / 60, 1)
    assert stats["splits"]["train"]["format_compliance"] == 100.0
    assert stats["splits"]["train"]["answer_length"]["mean"] == 1.0
    assert stats["clips"]["resolutions"] == {"1280x720": 100.0}
    page = (out / "stats.html").read_text()
    assert page.count("<svg") >= 5
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")

    name = next(name for name, o in found.items() if o["status"] == "kept")
    told = avrt("traces", "show", out, "--id", name).stdout
    assert "8 images, no audio" in told
    assert "<answer>" in told
    assert "kept" in told
    assert "no such sample" in avrt("traces", "show", out, "--id", "x", check=False).stderr

    avrt("traces", "export", out, "--format", "parquet")
    table = pyarrow.parquet.read_table(out / "traces.parquet").to_pylist()
    assert len(table) == kept
    assert table[0]["choices"] == json.loads((out / "traces.jsonl").read_text().splitlines()[0])["choices"]
