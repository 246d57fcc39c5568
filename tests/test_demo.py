"""`avrt demo`: its commands need one another in the order in which they stand, and all of them run."""

import json
from pathlib import Path

from avrt.commands.demo_stages import demo_plan
from tests.conftest import avrt


def test_each_command_stands_behind_what_it_needs():
    plan, done = demo_plan(Path("demo"), 400), set()
    for name, stage in plan.stages.items():
        assert done.issuperset(stage.needs), name
        done.add(name)
    folders = {str(stage.folder): name for name, stage in plan.stages.items()}
    for name, stage in plan.stages.items():
        read = {folders[str(at)] for word in stage.command for at in Path(word).parents if str(at) in folders}
        read |= {folders[word] for word in stage.command if word in folders}
        assert read - {name} <= set(stage.needs), "what is read has been made"


def test_only_short_commands_may_run_beside_what_takes_both_cores():
    plan = demo_plan(Path("demo"), 400)
    alone = [name for name, stage in plan.stages.items() if stage.alone]
    assert alone == ["sft/run", "grpo/run"]
    for name in alone:
        before = {other for other in plan.stages if name in plan.dependents(other)}
        beside = plan.stages.keys() - before - plan.dependents(name) - {name}
        assert {plan.stages[other].command[0] for other in beside} <= {"test", "shards"}


def test_it_trains_a_student_and_does_nothing_twice(tmp_path):
    out = tmp_path / "demo"
    whole = avrt("demo", "--clips", "4", "--out", out)
    assert "SFT+GRPO" in whole.stdout
    assert f"avrt fit --config grpo.yaml --config nano/grpo.yaml --data.train {out / 'data' / 'train'}" in whole.stderr
    stages = {record["name"]: record["command"][0] for record in map(json.loads, (out / "stages.jsonl").open())}
    assert list(stages.values()).count("fit") == 3
    other = avrt("demo", "--clips", "5", "--out", out, check=False)
    assert other.returncode == 2
    assert f"{out}: holds a demo of other options" in other.stderr
    again = avrt("demo", "--clips", "4", "--out", out)
    assert f"{len(stages)} of {len(stages)} stages were finished before" in again.stderr
