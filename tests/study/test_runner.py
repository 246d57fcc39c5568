"""`avrt study`: what a declaration becomes, and that it runs to the same files however often it is interrupted."""

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from avrt.errors import AvrtError
from avrt.evaluation.result import Result
from avrt.study.reading import read_declaration, split_arguments
from avrt.study.records import Records
from avrt.study.stages import plan
from tests.conftest import avrt

SMALL = {"trainer.limit_val_batches": 0, "data.num_workers": 0}
STUDY = {
    "title": "a tiny study",
    "seeds": [0, 1],
    "shards": {
        "questions": {"recipe": "nano_world", "arguments": {"split": "train", "clips": 6, "traces": "none"}},
        "asked": {"recipe": "nano_world", "arguments": {"split": "test", "clips": 2}},
    },
    "traces": {
        "traced": {
            "data": "questions", "folder": "of_questions", "config": ["traces.yaml", "nano/traces.yaml"],
            "arguments": {"val_share": 0.0},
        }
    },
    "training": {
        "sft": {"config": ["nano/sft.yaml"], "arguments": {**SMALL, "data.batch_size": 4, "trainer.max_epochs": 50}},
        "grpo": {
            "config": ["nano/grpo.yaml"],
            "arguments": {**SMALL, "data.batch_size": 2, "model.group_size": 2, "trainer.max_steps": 2},
        },
    },
    "students": {
        "base": {
            "stage": "sft", "source": "nano/student", "data": "traced",
            "arguments": {"trainer.max_steps": 24, "checkpoint.every_n_train_steps": 2},
        },
        "again": {
            "stage": "sft", "source": "nano/student", "data": "traced",
            "arguments": {"trainer.max_steps": 24, "checkpoint.every_n_train_steps": 2},
        },
        "rl": {"stage": "grpo", "source": "base", "data": "questions", "arguments": {"rollout.max_new_tokens": 8}},
    },
    "benchmarks": {
        "world": {
            "shards": "asked", "config": ["avqa.yaml", "nano/benchmark.yaml"],
            "arguments": {"model.generation.max_new_tokens": 8},
        }
    },
    "asked": [
        {"students": ["base", "again"], "benchmarks": ["world"]},
        {"students": ["rl"], "benchmarks": ["world"], "masks": ["av", "a"]},
    ],
    "claims": [
        {
            "id": "rl_over_base", "source": "Table 4", "text": "RL helps", "benchmark": "world",
            "first": {"student": "rl"}, "second": {"student": "base"},
        }
    ],
}  # fmt: skip
STUDY["students"]["rl"]["arguments"] = {"model.rollout.max_new_tokens": 8}


def declare(path: Path, content: dict | None = None) -> Path:
    path.write_text(yaml.safe_dump(content or STUDY, sort_keys=False))
    return path


@pytest.fixture
def declared(tmp_path):
    return declare(tmp_path / "tiny.yaml")


# ---- the declaration


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("students.rl.source", "bsae", "students.rl.source: no such name: bsae (did you mean base?)"),
        ("students.rl.data", "question", "students.rl.data: no such name: question (did you mean questions?)"),
        ("students.base.source", "rl", "students.base -> students.rl -> students.base"),
        ("students.rl.config", "[nano/rgpo.yaml]", "students.rl.config: nano/rgpo.yaml: no such configuration"),
        ("students.rl.arguments.data.val", "{shards.val}", "students.rl.arguments.data.val: no such name: val"),
        ("traces.traced.arguments.only", "['{students.rl}']", "traces.traced: is made once, and rl is trained with"),
        ("asked", "[{students: [rl], benchmarks: [world], masks: [b]}]", "asked.0.masks: no such name: b"),
        ("asked", "[{students: [rl], benchmarks: [world]}]", "claims.rl_over_base: base is not asked world under"),
        ("students.rl.stage", "dpo", "students.rl: stage: Expected one of: sft, grpo. Got value: dpo"),
        ("students.rl.sorce", "base", "students.rl: Option 'sorce' is not accepted"),
        ("students.rl", "base", "students.rl: is 'base', and no mapping"),
        ("seeds", "[0, 0]", "seeds: a study needs seeds, and each once"),
        ("students.rl.seeds", "0", "students.rl.seeds: is 0"),
        ("students.base.seeds", "1", "students.rl.seeds: 2 seeds of rl need base, which has 1"),
        ("students.base", "{stage: sft, source: nano, data: traced, once: true, seeds: 1}", "seeds: is trained once"),
        ("training.dpo", "{}", "training: no such name: dpo"),
        ("shards.traced", "{recipe: nano_world}", "traced: is the name of shards and of traces"),
    ],
)
def test_a_wrong_name_is_said_before_anything_runs(declared, field, value, told):
    with pytest.raises(AvrtError, match=re.escape(told)):
        plan(read_declaration([str(declared)], [(field, value)])[0], Path("out"))


def test_who_is_asked_with_a_student_needs_its_seeds(declared):
    overrides = [("students.again.seeds", "1"), ("benchmarks.world.arguments.a.b", "'{students.again}'")]
    with pytest.raises(AvrtError, match=re.escape("asked.0: 2 seeds of base need again, which has 1")):
        read_declaration([str(declared)], overrides)


def test_a_twin_has_its_own_number_of_seeds(declared):
    for student, made, twins in (("again", 2, 1), ("base", 2, 1)):
        overrides = [
            (f"students.{student}.seeds", "1"),
            ("students.rl.source", "again" if student == "base" else "base"),
        ]
        found = plan(read_declaration([str(declared)], overrides)[0], Path("out"))
        runs = [name for name in found.stages if re.fullmatch(r"students/(base|again)/seed-\d/run", name)]
        assert len(runs) == made
        assert sum(twin.folder.parts[1] == "students" for twin in found.twins) == twins


def test_declarations_are_merged_field_by_field_and_null_takes_away(declared, tmp_path):
    less = {"seeds": [3], "students": {"again": None, "rl": {"arguments": {"model.loss.beta": 0.5}}}, "asked": []}
    overlay = declare(tmp_path / "overlay.yaml", {**less, "claims": []})
    own, overrides = split_arguments(
        ["--out", "x", "--students.base.arguments.trainer.max_steps", "7", "--seeds=[3,4]"]
    )
    study, text = read_declaration([str(declared), str(overlay)], overrides)
    assert own == ["--out", "x"]
    assert (study.seeds, list(study.students)) == ([3, 4], ["base", "rl"])
    assert study.students["rl"].arguments == {"model.rollout.max_new_tokens": 8, "model.loss.beta": 0.5}
    assert study.students["base"].arguments == {"trainer.max_steps": 7, "checkpoint.every_n_train_steps": 2}
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert read_declaration([str(again)]) == (study, text)


# ---- the stages


def test_equal_stages_are_one_and_what_is_needed_comes_first(declared):
    overrides = [
        ("students.teacher", "{stage: sft, source: nano, data: traced, once: true}"),
        ("students.taught", "{stage: grpo, source: teacher, data: questions, arguments: {a.b: '{students.base}/x'}}"),
        ("traces.second", "{data: questions, folder: of_questions, shards: named/shards/train}"),
        ("shards.same", "{recipe: nano_world, arguments: {split: test, clips: 2}}"),
    ]
    study, _ = read_declaration([str(declared)], overrides)
    made = plan(study, Path("out"))
    fewer = plan(read_declaration([str(declared)], [*overrides, ("students.rl.seeds", "1")])[0], Path("out"))
    assert made.stages.keys() - fewer.stages.keys() == {
        *(f"students/rl/seed-1/{part}" for part in ("run", "model")),
        *(f"benchmarks/rl/seed-1/world/{mask}" for mask in ("av", "a")),
    }
    done: set[str] = set()
    for name, stage in made.stages.items():
        assert done.issuperset(stage.needs), name
        done.add(name)
    assert "shards/same" not in done
    assert {name for name in done if name.startswith("students/") and name.endswith("run")} == {
        f"students/{name}/seed-{seed}/run"
        for name, seeds in {"base": (0, 1), "rl": (0, 1), "teacher": (0,), "taught": (0, 1)}.items()
        for seed in seeds
    }
    assert made.stages["traces/second"].needs == ("shards/questions", "traces/traced")
    taught = made.stages["students/taught/seed-1/run"]
    assert {"students/teacher/seed-0/model", "students/base/seed-1/model"} <= set(taught.needs)
    assert "out/students/base/seed-1/model/x" in taught.command
    assert {(str(twin.folder), str(twin.of)) for twin in made.twins} == {
        ("out/students/again/seed-0", "out/students/base/seed-0"),
        ("out/students/again/seed-1", "out/students/base/seed-1"),
        ("out/students/teacher/seed-1", "out/students/teacher/seed-0"),
        ("out/benchmarks/again/seed-0/world/av", "out/benchmarks/base/seed-0/world/av"),
        ("out/benchmarks/again/seed-1/world/av", "out/benchmarks/base/seed-1/world/av"),
    }


def test_what_is_finished_is_known_by_command_configurations_and_needs(declared, tmp_path):
    config, out = tmp_path / "more.yaml", tmp_path / "out"
    config.write_text("data: {batch_size: 2}\n")

    def finished(*overrides):
        study, _ = read_declaration([str(declared)], [("students.rl.config", f"[{config}]"), *overrides])
        stages, records = plan(study, out), Records(out)
        records.identify(stages)
        return stages, records, *records.finished(stages)

    stages, records, kept, told = finished()
    assert (kept, told) == (set(), [])
    for stage in stages.stages.values():
        records.begin(stage)
        stage.leaves.mkdir(parents=True)
        records.add(stage, 1.0, 1.0)
    with (out / "stages.jsonl").open("a") as stream:
        stream.write('{"name": "cut sh')  # by a kill
    everything = set(stages.stages)
    assert finished()[2:] == (everything, [])
    config.write_text("data: {batch_size: 1}\n")
    _, _, kept, told = finished()
    assert everything - kept == {name for name in everything if "/rl/" in name}
    assert [line.partition(":")[0] for line in told] == [f"students/rl/seed-{seed}/run" for seed in (0, 1)]
    assert "repeated, with 3 finished ones that need it" in told[0]
    assert finished()[2:] == (kept, [])  # it stays so if the study is killed before they are repeated
    out = out.rename(tmp_path / "renamed")
    assert finished()[2:] == (kept, [])
    _, _, kept, told = finished(("shards.asked.arguments.clips", "3"))
    assert not [name for name in kept if name.startswith("benchmarks/")]
    assert "students/base/seed-0/model" in kept


def test_an_unfinished_stage_does_not_go_on_with_what_came_of_another_source(declared, tmp_path):
    stages, records = plan(read_declaration([str(declared)], [])[0], tmp_path), Records(tmp_path)
    records.identify(stages)
    base, rl = (stages.stages[f"students/{name}/seed-0/run"] for name in ("base", "rl"))
    for stage in (base, rl):
        records.begin(stage)
        stage.leaves.mkdir(parents=True)
    for name in base.needs:
        stages.stages[name].leaves.parent.mkdir(parents=True, exist_ok=True)
        stages.stages[name].leaves.touch()
        records.add(stages.stages[name], 1.0, 1.0)
    records.add(base, 1.0, 1.0)
    started = records.log(rl).with_suffix(".json")
    assert base.name in records.finished(stages)[0]
    assert started.exists()
    base.leaves.rmdir()
    again = Records(tmp_path)
    again.identify(stages)
    assert base.name not in again.finished(stages)[0]
    assert not started.exists()


def test_clips_are_made_anew_with_their_shards(declared, tmp_path):
    """A recipe leaves a clip alone that is there, but an earlier declaration may have shown something else in it."""
    stages, records = plan(read_declaration([str(declared)], [])[0], tmp_path), Records(tmp_path)
    records.identify(stages)
    clip = tmp_path / "clips" / "questions" / "train" / "0-000000.mp4"
    clip.parent.mkdir(parents=True)
    clip.touch()
    records.begin(stages.stages["shards/questions"])
    assert not clip.exists()


# ---- the runs


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "avrt", "study", *map(str, arguments)], cwd=cwd, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip


def wait_for(there, process):
    until = time.monotonic() + 300
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)


def all_ended(out: Path) -> bool:
    """Whether no process of a study runs any more."""
    with (out / ".processes.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_study_that_is_killed_and_stopped_ends_with_the_files_of_its_commands(declared, tmp_path):
    out = tmp_path / "study"
    run = ("--config", declared, "--out", "study", "--jobs", "2")
    killed = start(*run, cwd=tmp_path)
    wait_for((out / "report" / "power.md").is_file, killed)
    assert not list(out.glob("shards/*"))  # it is stated before anything has run
    wait_for(lambda: list(out.glob("students/base/seed-0/run/checkpoints/*.ckpt")), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    stopped = start(*run, cwd=tmp_path)
    wait_for(lambda: list(out.glob("students/rl/seed-*/run")), stopped)
    os.killpg(stopped.pid, signal.SIGTERM)  # as a batch system does
    printed = stopped.communicate()[0]
    assert stopped.returncode == 143, printed
    assert "the same command goes on" in printed
    assert all_ended(out)
    base = (out / "logs" / "students.base.seed-0.run.log").read_text()
    assert "checkpoint: none in" in base  # it began anew, then went on
    assert "run/checkpoints/step-0000" in base

    # One student more, whose training fails; all else is done, one after another.
    failing = ("--students.bad", "{stage: sft, source: nano, data: traced, arguments: {model.optimizer.lr: fast}}")
    also = ("--asked", json.dumps([*STUDY["asked"], {"students": ["bad"], "benchmarks": ["world"]}]))
    last = start(*run[:4], "--jobs", "1", *failing, *also, cwd=tmp_path)
    printed = last.communicate()[0]
    assert last.returncode == 1, printed
    assert "failed: students/bad/seed-0/run (status 2), study/logs/students.bad.seed-0.run.log:" in printed
    assert "  avrt: error: " in printed  # its last lines
    assert "2 of 23 stages failed" in printed
    assert "4 that need them were left out" in printed

    # What is there is what its commands make, typed one by one.
    commands = avrt("study", *run, "--dry_run", "true", cwd=tmp_path).stdout.splitlines()[:-1]
    typed = tmp_path / "typed"
    typed.mkdir()
    for command in commands:
        avrt(*shlex.split(command)[1:], cwd=typed)
    for path in sorted(typed.glob("study/**/*")):
        if path.name in ("model.safetensors", "predictions.jsonl", "manifest.json"):
            assert path.read_bytes() == (tmp_path / path.relative_to(typed)).read_bytes(), path
    assert (out / "students" / "again" / "seed-1" / "model" / "model.safetensors").is_file()
    cell = out / "benchmarks" / "again" / "seed-1" / "world" / "av"
    assert Result.load(cell / "result.json").student == "again"
    assert (cell / "predictions.jsonl").samefile(out / "benchmarks/base/seed-1/world/av/predictions.jsonl")

    # Everything but that student is finished, so that nothing runs and the page is written.
    done = avrt("study", *run, cwd=tmp_path)
    assert "17 of 17 stages were finished before" in done.stderr
    [verdict] = json.loads((out / "report" / "verdicts.json").read_text())
    assert verdict["id"] == "rl_over_base"


PACKAGED = ["nano/study.yaml"]
QUICK = [*PACKAGED, "nano/study_quick.yaml"]


@pytest.mark.parametrize("configs", [PACKAGED, QUICK, [*QUICK, "nano/study_shuffled.yaml"]])
def test_the_packaged_studies_are_whole(configs, tmp_path):
    study, text = read_declaration(configs)
    stages = plan(study, tmp_path).stages.values()
    assert len([stage for stage in stages if stage.kind == "test"]) >= len(study.claims)
    fitted = next(stage for stage in stages if stage.name == "students/sft/seed-0/run")
    learned = next(stage for stage in stages if stage.leaves.as_posix() in fitted.command)
    assert ("--shuffle_seed" in learned.command) == ("shuffled" in study.title) == (len(configs) == 3)
    (tmp_path / "again.yaml").write_text(text)
    read_declaration([str(tmp_path / "again.yaml"), "nano/study_quick.yaml"])  # takes away what is gone already
