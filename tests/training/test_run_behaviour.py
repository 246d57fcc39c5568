"""How a run behaves: what it needs, what it says while it goes on and at its end, and what it asks one to do next."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from avrt import progress
from avrt.progress import Pace
from avrt.training import on_cpu
from avrt.training.compilers import interpreter_on_path
from avrt.training.evaluation_strategy import use_plain_strategy
from avrt.training.quiet import is_chatter
from tests.conftest import avrt
from tests.training.runs import SMALL

ROOT = Path(__file__).parents[2]
NANO = ("--config", "sft.yaml", "--config", "nano/sft.yaml", *SMALL, "--model.generation.max_new_tokens", 4)
COMMANDS = """
import json, sys
from avrt.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["avrt", *arguments]
    main()
assert "deepspeed" not in sys.modules
"""
MANY_CORES = """
import json, sys
import lightning.fabric.utilities.distributed
import torch
import avrt.training.on_cpu
lightning.fabric.utilities.distributed._num_cpus_available = avrt.training.on_cpu.cores = lambda: 6
from avrt.cli import main
sys.argv = ["avrt", *json.loads(sys.argv[1])]
main()
print(f"threads: {torch.get_num_threads()}")
"""


def test_what_does_not_train_under_deepspeed_needs_neither_it_nor_a_compiler(world, tmp_path):
    """In an environment where importing it fails, without a compiler or ninja on PATH, for one process and for two."""
    forbidden = tmp_path / "site" / "deepspeed"
    forbidden.mkdir(parents=True)
    (forbidden / "__init__.py").write_text("raise ImportError('DeepSpeed was imported')")
    (tmp_path / "bin").mkdir()
    run, clip = tmp_path / "run", next((world / "clips" / "test").glob("*.mp4"))
    commands = [
        ["fit", *NANO, "--trainer.strategy", "auto", "--data.train", world / "train", "--trainer.max_steps", 1,
         "--trainer.default_root_dir", run],
        ["validate", *NANO, "--data.val", world / "val", "--ckpt_path", run, "--trainer.default_root_dir", run],
        ["test", "--config", "avqa.yaml", "--config", "nano/benchmark.yaml", "--data.test", world / "test",
         "--data.num_workers", 0, "--model.generation.max_new_tokens", 4, "--ckpt_path", run,
         "--trainer.default_root_dir", tmp_path / "benchmark"],
        ["predict", *NANO, "--data.ask.clip", clip, "--data.ask.question", "What is seen?",
         "--data.ask.choices", '["a ball", "a box"]', "--trainer.default_root_dir", tmp_path / "predict"],
        ["test", *NANO, "--data.test", world / "test", "--trainer.devices", 2, "--data.eval_batch_size", 3,
         "--trainer.default_root_dir", tmp_path / "two"],
    ]  # fmt: skip
    environment = {
        "PATH": str(tmp_path / "bin"), "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
    }  # fmt: skip
    for some in (commands[:-1], commands[-1:]):  # a command that starts another process has one of its own
        words = [[str(word) for word in command] for command in some]
        call = ["-m", "avrt", *words[0]] if len(some) == 1 else ["-c", COMMANDS, json.dumps(words)]
        done = subprocess.run([sys.executable, *call], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "two" / "lightning_logs" / "version_0" / "predictions.jsonl").read_text().splitlines()) == 8
    assert (tmp_path / "benchmark" / "result.json").is_file()
    assert not (tmp_path / "extensions").exists()


def test_stage_3_stays_where_nothing_is_trained():
    def used(stage, precision):
        name = "avrt.training.strategy.OmniDeepSpeedStrategy"
        strategy = Namespace(class_path=name, init_args=Namespace(stage=stage))
        trainer = Namespace(strategy=strategy, precision=precision)
        use_plain_strategy(trainer)
        return trainer.strategy if trainer.strategy == "auto" else trainer.strategy.init_args.stage, trainer.precision

    assert used(2, "bf16-mixed") == ("auto", "32-true")
    assert used(1, "16-true") == ("auto", "16-true")  # which is then refused, with what to set
    assert used(3, "bf16-mixed") == (3, "bf16-mixed")


def test_a_missing_compiler_is_told_in_one_line_with_the_remedy(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.delenv("CXX", raising=False)
    done = avrt("fit", *NANO, "--data.train", world / "train", "--trainer.default_root_dir", tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "trainer.strategy.offload_optimizer" in last
    assert "apt-get install g++" in last
    assert "--trainer.strategy auto" in last


def test_the_environments_ninja_is_found_without_activating_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("ninja") is None
    interpreter_on_path()
    interpreter_on_path()
    assert os.environ["PATH"].split(os.pathsep)[1:] == [str(tmp_path)]
    assert Path(shutil.which("ninja")).parent == Path(sys.executable).parent


def test_a_log_says_what_runs_how_far_it_is_and_what_comes_next(world, tmp_path):
    """Where an epoch is cut short, where a run is gone on with, and with two updates on each rollout."""
    short = ("--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1, "--data.batch_size", 4)
    run = ("--data.train", world / "train", "--trainer.default_root_dir", tmp_path / "sft", *short)
    done = avrt("fit", *NANO, *run, "--data.val", world / "val", "--trainer.max_epochs", 2)
    told = done.stderr.splitlines()
    assert told[0].startswith("avrt ")
    assert "torch" in told[0]
    assert told[0].endswith("on CPU")
    steps = [line for line in told if line.startswith("step ")]
    assert [line.split(",")[0] for line in steps] == ["step 1 of 4", "step 4 of 4"]
    assert "took" in steps[-1]
    assert "loss" in steps[-1]
    assert [line.split(":")[0] for line in told if line.startswith("validation ")] == [
        "validation after step 2", "validation after step 4"
    ]  # fmt: skip
    assert len(told) <= 6  # with the line that something is compiled, in a new environment
    curves, checkpoint, following = done.stdout.splitlines()
    assert curves == f"curves: tensorboard --logdir {tmp_path / 'sft'}"
    assert checkpoint == f"checkpoint: {tmp_path / 'sft' / 'checkpoints' / 'step-000004.ckpt'}"
    words = shlex.split(following.removeprefix("next: "))
    assert words[0] == "avrt"
    avrt(*words[1:])
    assert (tmp_path / "sft" / "model" / "config.json").is_file()

    resumed = avrt("fit", *NANO, *run, "--trainer.max_epochs", 3, "--ckpt_path", "last", "--verbose")
    assert "step 5 of 6" in resumed.stderr
    assert "step 6 of 6" in resumed.stderr
    assert "GPU available" in resumed.stderr

    grpo = avrt(
        "fit", "--config", "grpo.yaml", "--config", "nano/grpo.yaml", *SMALL, "--data.train", world / "train",
        "--data.batch_size", 2, "--model.group_size", 2, "--model.rollout.max_new_tokens", 2,
        "--model.num_iterations", 2, "--trainer.max_steps", 4, "--trainer.default_root_dir", tmp_path / "grpo",
    )  # fmt: skip
    lines = [line.split(",")[0] for line in grpo.stderr.splitlines() if line.startswith("step ")]
    assert lines == ["step 2 of 4", "step 4 of 4"]
    assert "THIS RUN HAS LEARNED NOTHING FROM REWARDS: every reward was 0" in grpo.stderr.splitlines()[-1]


@pytest.mark.parametrize(("set_by_user", "threads"), [(None, 2), ("1", 1), ("3", 3)])
def test_a_run_on_a_cpu_of_many_cores_takes_two_threads_or_as_many_as_the_user_says(
    world, tmp_path, set_by_user, threads
):
    """Lightning would take all cores, and say so in the environment, where it looks like the user's wish."""
    run = [
        "fit",
        *NANO,
        "--data.train",
        world / "train",
        "--trainer.max_steps",
        1,
        "--trainer.default_root_dir",
        tmp_path,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if set_by_user:
        environment["OMP_NUM_THREADS"] = set_by_user
    call = [sys.executable, "-c", MANY_CORES, json.dumps([str(word) for word in run])]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"threads: {threads}\n" in done.stdout


@pytest.mark.parametrize(
    ("variable", "cores", "ranks", "million", "threads"),
    [
        ("", 1, 1, 1, 1), ("", 6, 1, 1, 2), ("", 2, 2, 1, 1), ("", 3, 2, 1, 1), ("", 6, 1, 3000, 6),
        ("", 6, 4, 3000, 1), ("3", 2, 2, 1, 3), ("4,2", 2, 1, 1, 4), ("all", 6, 1, 1, 2),
    ],
)  # fmt: skip
def test_threads_are_shared_between_the_processes_of_a_run(monkeypatch, variable, cores, ranks, million, threads):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(on_cpu, "cores", lambda: cores)
    try:
        on_cpu.limit_threads(on_cpu.threads_wanted(), ranks, million * 10**6)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_only_known_chatter_is_left_out():
    assert is_chatter("GPU available: True (cuda), used: True")
    assert is_chatter("💡 Tip: For seamless cloud logging and experiment tracking, try installing litlogger")
    assert not is_chatter("8 samples were left out because they could not be used")
    assert not is_chatter("GPU out of memory")


def test_the_time_left_is_that_at_the_pace_since_the_first_count(monkeypatch):
    """A resumed run begins at step 40 of 100; its first step took long, the next ten 2 s each."""
    clock = iter([1000.0, 1020.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    pace = Pace()
    pace.note(40, 0.4)
    assert pace.told("step") == ""
    pace.note(50, 0.5)
    assert pace.rate == pytest.approx(0.5)
    assert pace.left == pytest.approx(100.0)
    assert pace.told("step") == "0.50 steps/s, about 100 s left"
