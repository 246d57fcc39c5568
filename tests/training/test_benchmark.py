"""Benchmarks through the command line: any number of processes, kills, replay, and protocols kept apart."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from avrt.commands.benchmark import BenchmarkSpec, GridOptions, cells
from avrt.evaluation.protocol import MASKS, differences
from avrt.evaluation.result import Result
from tests.conftest import avrt

NANO = ("--config", "avqa.yaml", "--config", "nano/benchmark.yaml", "--data.num_workers", 0)
SHORT = ("--model.generation.max_new_tokens", 12, "--data.eval_batch_size", 3)


def ask(world, folder, *extra, split="test", **settings):
    return avrt(
        "test", *NANO, *SHORT, "--data.test", world / split, "--trainer.default_root_dir", folder, *extra, **settings
    )


def test_two_processes_answer_as_one_does(world, tmp_path):
    ask(world, tmp_path / "one")
    ask(world, tmp_path / "two", "--trainer.devices", 2)
    one, two = (tmp_path / name / "predictions.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_text().splitlines()) == 8
    first, second = (Result.load(tmp_path / name / "result.json") for name in ("one", "two"))
    assert (first.scores, first.fingerprint) == (second.scores, second.fingerprint)
    assert second.environment["processes"] == 2
    refused = ask(world, tmp_path / "one", "--data.prompt.system_prompt", "Be brief.", check=False)
    assert refused.returncode == 2
    assert "another protocol; prompt.system_prompt was ''" in refused.stderr


def test_killed_in_the_middle_and_started_again(world, tmp_path):
    command = [sys.executable, "-m", "avrt", "test", *NANO, *SHORT, "--data.test", world / "train"]
    command += ["--trainer.default_root_dir", tmp_path / "killed", "--data.eval_batch_size", 1]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if sum(len(p.read_bytes().splitlines()) for p in (tmp_path / "killed" / "journal").glob("*.jsonl")) > 4:
            break
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {p.name: p.read_bytes() for p in (tmp_path / "killed" / "journal").glob("*.jsonl")}
    ask(world, tmp_path / "killed", "--data.eval_batch_size", 1, split="train")
    ask(world, tmp_path / "whole", "--data.eval_batch_size", 1, split="train")
    killed, whole = (Result.load(tmp_path / name / "result.json") for name in ("killed", "whole"))
    assert killed.scores == whole.scores
    names = [tmp_path / name / "predictions.jsonl" for name in ("killed", "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()
    asked_before = sum(
        len([x for x in data.split(b"\n")[:-1] if b'"protocol"' not in x[:12]]) for data in before.values()
    )
    assert killed.environment["asked"] == 48 - asked_before < 48


@pytest.fixture(scope="module")
def grid(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    settings = {
        "students": {"base": "nano"},
        "benchmarks": {
            "nano_world": {"config": ["avqa.yaml", "nano/benchmark.yaml"], "shards": str(world / "test")},
            "omnibench": {
                "config": ["avqa.yaml", "nano/benchmark.yaml"],
                "shards": str(world / "test"),
                "masks": ["av"],
                "protocols": ["avrt", {"config": "protocols/dailyomni_authors.yaml", "students": ["base"]}],
            },
        },
        "masks": list(MASKS),
        "jobs": 2,
        "out": str(folder / "runs"),
        "arguments": ["--data.num_workers", "0", "--model.generation.max_new_tokens", "6"],
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(settings))
    avrt("benchmark", "--config", folder / "grid.yaml")
    return folder


def test_a_grid_runs_every_mask_each_once(grid):
    results = {path.parent.name: Result.load(path) for path in grid.glob("runs/base/nano_world/*/result.json")}
    assert set(results) == set(MASKS)
    assert all(result.mask == name for name, result in results.items())
    assert len({result.fingerprint for result in results.values()}) == len(MASKS)
    assert set(differences(results["av"].protocol, results["a"].protocol)) == {"prompt.senses"}
    assert set(results["text"].honesty) == {"audio", "vision"}
    again = avrt("benchmark", "--config", grid / "grid.yaml")
    assert f"{len(MASKS) + 2} of {len(MASKS) + 2} cells are finished already" in again.stdout
    changed = avrt(
        "benchmark", "--config", grid / "grid.yaml", "--arguments", '["--data.num_workers", "0"]', check=False
    )
    assert changed.returncode == 2
    assert "another command" in changed.stderr


def test_a_student_may_be_a_model_a_run_or_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001.ckpt"
    checkpoint.mkdir(parents=True)
    (checkpoint / "latest").touch()
    places = {"released": "Qwen/Qwen2.5-Omni-3B", "trained": str(tmp_path / "run"), "saved": str(checkpoint)}
    options = GridOptions(students=places, benchmarks={"b": BenchmarkSpec([], "shards")})
    given = {cell.name.partition("/")[0]: cell.command[1:3] for cell in cells(options)}
    assert given == {
        "released": ("--model.student.source", places["released"]),
        "trained": ("--ckpt_path", places["trained"]),
        "saved": ("--ckpt_path", places["saved"]),
    }


def test_a_cell_is_asked_by_the_protocol_that_the_grid_names(grid):
    """The result says who asked, by which rule and what does not fit; nano_world keeps its name under any label."""
    folder = grid / "runs" / "base" / "omnibench"
    ours, theirs = (Result.load(folder / name / "result.json") for name in ("av", "dailyomni_authors/av"))
    assert [(r.asked_by, r.headline, r.benchmark) for r in (ours, theirs)] == [
        ("avrt", "strict", "nano_world"), ("authors", "dailyomni", "nano_world")
    ]  # fmt: skip
    assert theirs.scores["dailyomni"]["accuracy"] == theirs.score["accuracy"]
    assert theirs.unfit == ["8 frames, not 2 frames a second", "10 s of sound, not all"]
    assert ours.unfit == []
    assert theirs.protocol["headline"] == "dailyomni"
    assert theirs.protocol["data.media"] == ["audio", "video"]
    assert theirs.miniature
    assert theirs.protocol["prompt.template"].startswith("\nYour task is")
    again = avrt("benchmark", "--config", grid / "grid.yaml")
    words = "".join(again.stdout.split())
    assert "asked" in words
    assert "autho" in words  # a narrow terminal breaks words


@pytest.mark.parametrize(
    ("protocols", "told"),
    [
        (["avrt", "avrt"], "benchmarks.b.protocols: two protocols are called avrt"),
        ([{"students": ["nobody"]}], "benchmarks.b.protocols: no such student: nobody"),
    ],
)
def test_a_grid_whose_protocols_cannot_be_told_apart_is_refused(protocols, told, tmp_path):
    settings = {
        "students": {"base": "nano"},
        "benchmarks": {"b": {"config": [], "shards": "s", "protocols": protocols}},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(settings))
    done = avrt("benchmark", "--config", tmp_path / "grid.yaml", check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_finished_cell_whose_shards_changed_since_is_not_taken_for_done(world, grid):
    manifest = world / "test" / "manifest.json"
    kept = manifest.read_bytes()
    try:
        manifest.write_bytes(kept + b" ")
        changed = avrt("benchmark", "--config", grid / "grid.yaml", check=False)
    finally:
        manifest.write_bytes(kept)
    assert changed.returncode == 2
    assert "from other shards" in changed.stderr


def test_replay_gives_the_same_figures_and_notices_other_ones(grid):
    folder = grid / "runs" / "base" / "nano_world" / "a"
    assert "the same 8 answers" in avrt("benchmark", "--replay", folder / "result.json").stdout
    record = json.loads((folder / "result.json").read_bytes())
    record["scores"]["strict"]["accuracy"] = 0.99
    (folder / "changed.json").write_text(json.dumps(record))
    done = avrt("benchmark", "--replay", folder / "changed.json", "--out", grid / "again", check=False)
    assert done.returncode == 2
    assert "0.99 then" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--model.benchmark.official", "nonsense", "nonsense: no such scorer (one of strict"),
        ("--model.generation.top_p", "3", "out of range"),
        ("--data.prompt.template", "{quest}", "unknown placeholder: 'quest'"),
        ("--model.benchmark.samples", "3", "the same at temperature 0"),
    ],
)
def test_a_refused_value_is_told_in_one_line(option, value, told, world, tmp_path):
    done = ask(world, tmp_path, option, value, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cell_that_fails_is_named_and_the_others_are_run(grid, world, tmp_path):
    settings = yaml.safe_load((grid / "grid.yaml").read_text())
    settings.update(students={"gone": str(tmp_path / "gone"), "base": "nano"}, masks=["a"], out=str(tmp_path / "out"))
    del settings["benchmarks"]["omnibench"]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(settings))
    done = avrt("benchmark", "--config", tmp_path / "grid.yaml", check=False)
    assert done.returncode == 2
    assert "1 of 2 cells failed: gone/nano_world/a" in done.stderr
    assert (tmp_path / "out" / "base" / "nano_world" / "a" / "result.json").is_file()


def test_an_unreadable_sample_is_counted_as_failed_and_wrong(world, tmp_path):
    shutil.copytree(world / "test", tmp_path / "shards")
    tar = next((tmp_path / "shards").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    start = data.find(b"fLaC")
    data[start : start + 400] = bytes(400)
    tar.write_bytes(data)
    ask(tmp_path, tmp_path / "run", split="shards")
    result = Result.load(tmp_path / "run" / "result.json")
    assert result.counts["failed"] == 1
    assert result.counts["questions"] == 8


def test_a_benchmark_of_which_nothing_could_be_asked_fails(world, tmp_path):
    shutil.copytree(world / "test", tmp_path / "shards")
    for tar in (tmp_path / "shards").glob("*.tar"):
        data = bytearray(tar.read_bytes())
        start = 0
        while (start := data.find(b"fLaC", start)) >= 0:
            data[start : start + 400] = bytes(400)
        tar.write_bytes(data)
    done = ask(tmp_path, tmp_path / "run", split="shards", check=False)
    assert done.returncode == 1
    assert "none of the 8 questions could be asked" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
