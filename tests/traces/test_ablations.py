"""Ablations on one store: no teacher call is repeated, each run has its own folder, and samples can be matched."""

import hashlib
import json
import re
import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from avrt.data.sample import Modality
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from avrt.errors import AvrtError
from avrt.traces.database import rows
from avrt.traces.trace_export import _exchanged, read_traces
from tests.conftest import avrt
from tests.traces.servers import serving, write_config, write_questions

ABLATIONS = Path(__file__).parents[2] / "configs" / "ablations"


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions") / "shards", 40)


def ids(folder):
    return {json.loads(line)["id"] for line in (folder / "traces.jsonl").read_text().splitlines()}


def splits(folder):
    return Counter(json.loads(line)["split"] for line in (folder / "traces.jsonl").read_text().splitlines())


def test_one_store_serves_all_ablations(questions, tmp_path):
    """Only the first run calls teachers, all runs keep the same samples, and no run changes another's shards."""
    out = tmp_path / "out"
    made, shards = {}, {}
    with serving(tmp_path, "--models", "visual", "audio", "merger", "google/gemma-3-12b-it") as server:
        config = write_config(tmp_path / "c.yaml", server.url, val_share=0.2)
        (tmp_path / "gemma.yaml").write_text((ABLATIONS / "gemma_merger.yaml").read_text())
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        for name in (None, "audio_traces", "visual_traces", "gemma_merger", "unfiltered_traces"):
            before = len(server.records("request"))
            overlay = () if name is None else ("--config", ABLATIONS / f"{name}.yaml")
            told = avrt(*common, *overlay).stdout
            made[name] = Counter(r["model"] for r in server.records("request")[before:])
            folder = out if name is None else out / name
            assert f"train, {splits(folder)['val']} val: {folder}" in told
            shards[folder] = (folder / "shards" / "train" / "shard-000000.tar").read_bytes()
        prompts = [r["prompt"] for r in server.records("request")]
    kept = ids(out)
    assert 0 < len(kept) < 40
    assert made[None] == {"visual": 40, "audio": 40, "merger": len(kept)}
    # the second to the fifth: no teacher at all, and the merger as often as it has something new to read
    assert made["audio_traces"] == made["visual_traces"] == {"merger": len(kept)}
    assert made["gemma_merger"] == {"google/gemma-3-12b-it": len(kept)}
    assert made["unfiltered_traces"] == {"merger": 40 - len(kept)}
    for name in ("audio_traces", "visual_traces", "gemma_merger"):
        assert ids(out / name) == kept
        assert {s.id for split in ("train", "val") for s in ShardSet(out / name / "shards" / split).samples()} == kept
    assert ids(out / "unfiltered_traces") != kept
    assert splits(out / "unfiltered_traces") == splits(out)
    # what was exported first is as it was
    assert {folder: (folder / "shards" / "train" / "shard-000000.tar").read_bytes() for folder in shards} == shards
    assert not list(out.glob("*/store.sqlite3"))
    # each merger read what its ablation says
    alone = [p for p in prompts if "Correct option" in p and "visual side" not in p and "What was seen" not in p]
    assert len(alone) == len(kept)
    assert all("Audio Description" in p and "Visual Description" not in p for p in alone)

    # every folder tells its own statistics, also when all of them were moved together
    shutil.move(out, tmp_path / "moved")
    for name, keep in ((".", len(kept)), ("audio_traces", len(kept)), ("unfiltered_traces", len(kept))):
        avrt("traces", "stats", tmp_path / "moved" / name)
        stats = json.loads((tmp_path / "moved" / name / "stats.json").read_text())
        assert stats["outcomes"]["kept"] == keep
        assert stats["samples"] == 40
    one = next(iter(kept))
    assert "google/gemma" in avrt("traces", "show", tmp_path / "moved" / "gemma_merger", "--id", one).stdout


def test_a_run_that_takes_only_what_others_kept(questions, tmp_path):
    """The checks drop samples of one merger; `only` restricts other runs to the same samples without a call."""
    out = tmp_path / "out"
    short = {"merger-2": [{"when": "number 1", "content": "<think>Too short.</think><answer>A</answer>"}, {
        "content": "<think>Something is seen and something is heard which goes together very well.</think><answer>A"
        "</answer>"}]}  # fmt: skip
    options = ("--models", "visual", "audio", "merger", "merger-2", "--rules", json.dumps(short))
    with serving(tmp_path, *options) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        avrt(*common)
        avrt(*common, "--name", "other", "--merger.backend.model", "merger-2")
        assert ids(out / "other") < ids(out)
        before = len(server.records("request"))
        told = avrt(*common, "--name", "matched", "--only", "[other, .]").stdout
        assert len(server.records("request")) == before
        listed = tmp_path / "ids.txt"
        listed.write_text("\n".join(sorted(ids(out / "other"))[:2]) + "\n")
        avrt(*common, "--name", "listed", "--only", f"[{listed}]")
        nothing = avrt(*common, "--name", "none", "--only", "[elsewhere]", check=False)
    assert ids(out / "matched") == ids(out / "other")
    assert "not among the samples asked for" in told
    assert len(ids(out / "listed")) == 2
    assert nothing.returncode == 2
    assert "elsewhere is not a folder with exported traces" in nothing.stderr


def test_a_draw_depends_on_the_seed_alone(questions, tmp_path):
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        avrt(*common)
        unfiltered = (*common, "--config", ABLATIONS / "unfiltered_traces.yaml")
        avrt(*unfiltered)
        first = ids(out / "unfiltered_traces")
        avrt(*unfiltered)
        assert ids(out / "unfiltered_traces") == first
        avrt(*unfiltered, "--draw_seed", 1)
        other = ids(out / "unfiltered_traces")
        avrt(*common, "--config", ABLATIONS / "shuffled_traces.yaml")
        own = avrt(*common, "--as_many_as", ".", check=False)
        few = avrt(*common, "--name", "few", "--filter", "audio_only", "--limit", 10, "--as_many_as", ".")
        early = avrt(*common, "--name", "early", "--as_many_as", "later", check=False)
    assert len(first) == len(other) == len(ids(out))
    assert other != first
    plain, shuffled = ({r["id"]: r["trace"] for r in read_traces(place)} for place in (out, out / "shuffled_traces"))
    assert plain.keys() == shuffled.keys()
    assert sorted(plain.values()) == sorted(shuffled.values())
    changed = sum(shuffled[name] != trace for name, trace in plain.items())
    assert changed > len(plain) / 2  # two may have the same words
    assert "is the run's own folder" in own.stderr
    assert "fewer in train than . has" in few.stderr
    assert "later is not a folder with exported traces" in early.stderr


def test_no_sample_is_given_a_trace_of_its_own_clip():
    kept = {p: {"clip": clip, "trace": f"{clip}{p}"} for p, clip in enumerate("aaaabbcdda")}
    for seed in range(20):
        found = _exchanged(kept, seed)
        assert list(found) == list(kept)
        assert sorted(r["trace"] for r in found.values()) == sorted(r["trace"] for r in kept.values())
        assert all(row["trace"][0] != row["clip"] for row in found.values())
    with pytest.raises(AvrtError, match="shuffle_seed: 5 of 9 traces are about one clip"):
        _exchanged({p: row for p, row in kept.items() if p != 8}, 0)


def test_a_store_in_another_folder(questions, tmp_path):
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--store", tmp_path / "calls")
        avrt(*common, "--out", tmp_path / "one")
        before = len(server.records("request"))
        avrt(*common, "--out", tmp_path / "two", "--filter", "audio_only")
        assert {r["model"] for r in server.records("request")[before:]} == {"merger"}
    assert ids(tmp_path / "one") < ids(tmp_path / "two")
    assert not (tmp_path / "one" / "store.sqlite3").exists()
    for name in ("one", "two"):
        avrt("traces", "stats", tmp_path / name)
        stats = json.loads((tmp_path / name / "stats.json").read_text())
        assert stats["outcomes"]["kept"] == len(ids(tmp_path / name))


@pytest.mark.parametrize("name", ["shards", "../x", "", ".hidden", "a/b"])
def test_names_that_are_refused(questions, tmp_path, name):
    config = write_config(tmp_path / "c.yaml", "http://127.0.0.1:1/v1")
    run = ("traces", "run", "--config", config, "--data", questions, "--out", tmp_path / "out", f"--name={name}")
    told = avrt(*run, check=False)
    assert told.returncode == 2
    assert "cannot be the name" in told.stderr


def test_a_store_of_version_1_is_upgraded(questions, tmp_path):
    """Its calls still match, its statistics are printed, and an ablation can use it."""
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        avrt(*common)
        kept = ids(out)
        as_version_1(out)
        avrt("traces", "stats", out)
        assert json.loads((out / "stats.json").read_text())["outcomes"]["kept"] == len(kept)
        as_version_1(out)
        before = len(server.records("request"))
        avrt(*common)
        assert len(server.records("request")) == before
        avrt(*common, "--config", ABLATIONS / "audio_traces.yaml")
    assert ids(out) == ids(out / "audio_traces") == kept


def as_version_1(out):
    """Write the tables as the first version had them, and its run.json."""
    db = sqlite3.connect(out / "store.sqlite3", isolation_level=None)
    for table in ("outcomes", "verdicts"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "folder"]
        (made,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        db.execute(f"CREATE TABLE old AS SELECT {', '.join(columns)} FROM {table} WHERE folder = ''")
        db.execute(f"DROP TABLE {table}")
        db.execute(re.sub(r"\s*folder TEXT NOT NULL,", "", made).replace("(folder, ", "("))
        db.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM old")
        db.execute("DROP TABLE old")
    db.execute("PRAGMA user_version = 1")
    db.close()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({"run": record["run"], "data": record["data"]}))


FIGURE = {
    "visual": "◁think▷A mask and a snorkel speak of buoyancy.◁/think▷\nVisual Description: a diver.\nReasoning: blue.\n"
    "Answer: ({}) it",
    "audio": "Audio Description: water.\nReasoning: waves.\nAnswer: ({}) it",
}


@pytest.mark.parametrize("reads_thinking", [True, False])
def test_the_merger_reads_thinking_and_final_text(tmp_path, reads_thinking):
    """As in AVRT Figure 1, where the merger uses words of the teachers' thinking; in two forms of thinking."""
    data, letter = write_questions(tmp_path / "shards", 1), "A"
    rules = {
        "visual": [{"content": FIGURE["visual"].format(letter)}],
        "audio": [
            {
                "content": FIGURE["audio"].format(letter),
                "further": {"reasoning_content": "Gurgling, (C) bubbling."},
            }
        ],
    }
    with serving(tmp_path, "--rules", json.dumps(rules)) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        run = ("traces", "run", "--config", config, "--data", data, "--out", tmp_path / "out")
        avrt(*run, "--merger.reads_thinking", reads_thinking)
        told = next(r["prompt"] for r in server.records("request") if r["model"] == "merger")
        long = avrt(*run, "--merger.reads_thinking", reads_thinking, "--merger.thinking_words", 3).stdout
    heard, seen = told.split("What was heard:\n")[1].split("\n\nWhat was seen:\n")
    if reads_thinking:
        assert heard == "Gurgling, (C) bubbling.\n\nAudio Description: water.\nReasoning: waves."
        assert seen == "A mask and a snorkel speak of buoyancy.\n\nVisual Description: a diver.\nReasoning: blue."
    else:
        assert heard == "Audio Description: water.\nReasoning: waves."
        assert seen == "Visual Description: a diver.\nReasoning: blue."
    assert ("visual: 0 calls made, 1 in store, 0 failed, the thinking of 1 shortened" in long) == reads_thinking
    assert "audio: 0 calls made, 1 in store, 0 failed\n" in long
    verdicts = {r["teacher"]: r["letter"] for r in rows(tmp_path / "out", "SELECT * FROM verdicts")}
    assert verdicts == {"visual": letter, "audio": letter}


def test_a_run_without_an_analysis_to_read(tmp_path):
    """Without thinking, teachers that only think give no analysis, and the merger is not called."""
    data = write_questions(tmp_path / "shards", 1)
    rules = {role: [{"content": "<think>It is.</think><answer>A</answer>"}] for role in ("visual", "audio")}
    with serving(tmp_path, "--rules", json.dumps(rules)) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        run = ("traces", "run", "--config", config, "--data", data, "--out", tmp_path / "out")
        told = avrt(*run, "--merger.reads_thinking", False, check=False)
        assert {r["model"] for r in server.records("request")} == {"visual", "audio"}
        avrt(*run)
    assert told.returncode == 1
    assert "no analysis that the merger could read" in told.stderr
    assert ids(tmp_path / "out") == {"q00000"}


def test_the_draw_by_hand(questions, tmp_path):
    """The drawn ids are those whose hashes of seed and id are smallest."""
    out = tmp_path / "out"
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url, val_share=0.0)
        common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
        avrt(*common)
        avrt(*common, "--config", ABLATIONS / "unfiltered_traces.yaml")
    ranked = sorted(
        (hashlib.blake2b(f"0\0q{i:05d}".encode(), digest_size=8).hexdigest(), f"q{i:05d}") for i in range(40)
    )
    assert ids(out / "unfiltered_traces") == {name for _, name in ranked[: len(ids(out))]}


def test_one_model_at_a_time(questions, tmp_path):
    """Teachers called one after the other, as on a GPU that holds one model, then the merger without their servers."""
    out, any_merger = tmp_path / "out", ("--merger.template", "merger_any.txt", "--stages", "[teach]")
    for sense, other in (("visual", "audio"), ("audio", "visual")):
        (tmp_path / sense).mkdir()
        with serving(tmp_path / sense, "--models", sense) as server:
            config = write_config(tmp_path / "c.yaml", server.url)
            common = ("traces", "run", "--config", config, "--data", questions, "--out", out)
            avrt(*common, f"--{other}", "null", *any_merger)
            assert Counter(r["model"] for r in server.records("request")) == {sense: 40}
    with serving(tmp_path, "--models", "merger") as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        avrt(*common, "--stages", "[merge,export]")
        assert Counter(r["model"] for r in server.records("request")) == {"merger": len(ids(out))}
    assert len(ids(out)) > 0


def test_audio_alone(tmp_path):
    """Questions about audio alone: no visual teacher, and no prompt mentions pictures."""
    source = ShardSet(write_questions(tmp_path / "shards", 8))
    with ShardWriter(tmp_path / "data", source.manifest.spec) as writer:
        for i in range(8):
            raw = source.read(i)
            info = json.loads(raw["clip.json"])
            members = {"flac": raw["flac"], "clip.json": json.dumps({"audio": info.get("audio"), "n": i}).encode()}
            writer.write(replace(source.sample(i), media=(Modality.AUDIO,)), members)
    with serving(tmp_path) as server:
        config = write_config(tmp_path / "c.yaml", server.url)
        run = ("traces", "run", "--config", config, "--data", tmp_path / "data", "--out", tmp_path / "out")
        avrt(*run, "--visual", "null", "--merger.template", "merger_any.txt")
        prompts = [r["prompt"] + "".join(r["system"]) for r in server.records("request")]
    assert 0 < len(ids(tmp_path / "out")) < 8
    assert not [word for word in ("clip", "picture", "seen", "video") if any(word in p for p in prompts)]
