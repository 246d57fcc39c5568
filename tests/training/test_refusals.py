"""What cannot work is refused in one line before a student is loaded; what nothing came of fails."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.trainer.states import TrainerFn

from avrt.data.shards.manifest import Manifest
from avrt.data.shards.writer import ShardWriter
from avrt.errors import AvrtError
from avrt.run_folder import LAST, LAST_OR_NEW, complete_checkpoints, find_checkpoint
from avrt.training.unsupported import check_trainer_options, plain_error
from tests.conftest import avrt
from tests.training.runs import SMALL, fit, fit_arguments, logged
from tests.training.test_edge_cases import SHORT, rewritten


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("gradient_clip_val", 1.0, "trainer.strategy.gradient_clip_norm"),
        ("gradient_clip_algorithm", "value", "trainer.strategy.gradient_clip_norm"),
        ("accumulate_grad_batches", 4, "data.batch_size"),
        ("enable_checkpointing", False, "checkpoint.every_n_train_steps"),
        ("overfit_batches", 2, "limit_train_batches"),
        ("reload_dataloaders_every_n_epochs", 1, "shuffled anew"),
        ("barebones", True, "trainer.logger false"),
        ("sync_batchnorm", True, "leave it out"),
    ],
)
def test_an_option_that_cannot_work_names_the_one_that_does(field, value, instead):
    with pytest.raises(AvrtError, match=instead) as caught:
        check_trainer_options({field: value})
    assert caught.value.where == f"trainer.{field}"


def test_lightnings_defaults_pass():
    check_trainer_options(
        {"gradient_clip_val": None, "accumulate_grad_batches": 1, "enable_checkpointing": None, "overfit_batches": 0.0,
         "reload_dataloaders_every_n_epochs": 0, "barebones": False, "use_distributed_sampler": True, "logger": None}
    )  # fmt: skip


def test_a_logger_without_its_package_is_named(monkeypatch):
    with pytest.raises(AvrtError, match=r"CometLogger needs the package comet_ml .*pip install comet_ml"):
        check_trainer_options({"logger": {"class_path": "lightning.pytorch.loggers.CometLogger"}})
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.raises(AvrtError, match=r"WandbLogger needs the package wandb .*pip install 'avrt\[wandb\]'"):
        check_trainer_options({"logger": [{"class_path": "lightning.pytorch.loggers.WandbLogger"}]})
    check_trainer_options({"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger"}})


@pytest.mark.parametrize(("address", "works"), [(None, False), ("file:mlruns", False), ("sqlite:///m.db", True)])
def test_an_mlflow_logger_is_told_where_it_can_keep_runs(monkeypatch, address, works):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": address}}
    with nullcontext() if works else pytest.raises(AvrtError, match="sqlite:///"):
        check_trainer_options({"logger": logger})


def test_what_lightning_and_the_network_refuse_is_one_line():
    assert str(plain_error(MisconfigurationException("No gpu\n  found"))) == "trainer: No gpu found"
    assert "MASTER_PORT" in str(plain_error(RuntimeError("bind: EADDRINUSE, address in use")))
    assert plain_error(RuntimeError("a bug")) is None


def test_which_checkpoint_is_meant(tmp_path):
    for command in ("fit", "validate", "test", "predict"):
        with pytest.raises(AvrtError, match="no complete checkpoint") as caught:
            find_checkpoint(LAST, tmp_path, command)
        assert str(tmp_path) in str(caught.value)
    assert find_checkpoint(LAST_OR_NEW, tmp_path, TrainerFn.FITTING) is None
    with pytest.raises(AvrtError, match="for `avrt fit` alone"):
        find_checkpoint(LAST_OR_NEW, tmp_path, "test")
    with pytest.raises(AvrtError, match="no such checkpoint"):
        find_checkpoint(str(tmp_path / "mistyped.ckpt"), tmp_path, "fit")
    older, newer, torn = (tmp_path / "checkpoints" / f"step-00000{i}.ckpt" for i in (5, 4, 6))
    for path in (older, newer, torn):
        path.mkdir(parents=True)
    (older / "latest").write_text("")
    (newer / "latest").write_text("")
    os.utime(older, (1, 1))
    assert complete_checkpoints(tmp_path) == [older, newer]
    assert find_checkpoint(LAST, tmp_path, "test") == str(newer)
    assert find_checkpoint(LAST_OR_NEW, tmp_path, "fit") == str(newer)
    assert find_checkpoint(str(tmp_path), tmp_path / "other_run", "test") == str(newer)
    assert find_checkpoint(str(older), tmp_path, "test") == str(older)
    (newer / "latest").unlink()
    (older / "latest").unlink()
    with pytest.raises(AvrtError, match="no complete checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path, "test")


def test_a_trial_run_leaves_nothing_behind(world, tmp_path):
    arguments = fit_arguments("sft", world, tmp_path / "run", *SMALL, "--trainer.fast_dev_run", "true")
    avrt(*arguments)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("config.yaml"))
    avrt(
        "test", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.test", world / "val",
        "--data.num_workers", 0,
        "--trainer.fast_dev_run", "true", "--trainer.default_root_dir", tmp_path / "run",
        "--model.generation.max_new_tokens", 2,
    )  # fmt: skip
    assert not list(tmp_path.rglob("predictions.jsonl"))


def test_last_of_nothing_and_an_option_of_lightning_end_the_command(world, tmp_path):
    validate = ("validate", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.val", world / "val")
    done = avrt(*validate, "--trainer.default_root_dir", tmp_path / "mistyped", "--ckpt_path", "last", check=False)
    assert done.returncode == 2
    assert str(tmp_path / "mistyped") in done.stderr.splitlines()[-1]
    done = avrt(*fit_arguments("sft", world, tmp_path, "--trainer.gradient_clip_val", 1.0), check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "gradient_clip_norm" in done.stderr.splitlines()[-1]


def test_texts_stay_texts(world, tmp_path):
    """A colon is no mapping, and yes and no are no truth values."""
    clip = next((world / "clips").rglob("*.mp4"))
    done = avrt(
        "predict", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.ask.clip", clip,
        "--data.ask.question", "Look closely: is it a dog?", "--data.ask.choices", "[yes, no, 1.0]",
        "--data.prompt.instruction=Note: be short", "--model.generation.max_new_tokens", 2,
        "--trainer.default_root_dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    (file,) = tmp_path.rglob("predictions.jsonl")
    record = json.loads(file.read_text())
    assert record["question"] == "Look closely: is it a dog?"
    assert record["choices"] == ["yes", "no", "1.0"]


def test_questions_without_an_answer_are_named_before_grpo_begins(world, tmp_path):
    some = rewritten(world, tmp_path / "some", lambda i, s: replace(s, answer=None, trace=None) if i in (3, 7) else s)
    arguments = fit_arguments(
        "grpo", some, tmp_path / "run", *SHORT, "--model.rollout.max_new_tokens", 2, "--trainer.max_epochs", 1,
        "--trainer.max_steps", -1,
    )  # fmt: skip
    done = avrt(*arguments)
    assert "2 of 48 training samples are left out" in done.stderr
    steps = logged(tmp_path / "run")
    assert sum(s["train/skipped_samples"] for s in steps.values()) == 2
    assert "NOTHING IS LEARNED FROM REWARDS" in done.stderr  # a student of random weights is never rewarded


def test_nothing_to_train_on_is_a_failure(world, tmp_path):
    none = rewritten(world, tmp_path / "none", lambda i, s: replace(s, answer=None, trace=None))
    for stage in ("sft", "grpo"):
        done = avrt(*fit_arguments(stage, none, tmp_path / stage, *SMALL), check=False)
        assert done.returncode == 1
        assert "none of the 48 samples can be trained on" in done.stderr.splitlines()[-1]
    with ShardWriter(tmp_path / "empty", Manifest.load(world / "train").spec):
        pass
    done = avrt(*fit_arguments("sft", world, tmp_path / "x", *SMALL, "--data.val", tmp_path / "empty"), check=False)
    assert done.returncode == 1
    assert "holds no samples" in done.stderr.splitlines()[-1]


def test_prompts_that_are_all_too_long_are_a_failure(world, tmp_path):
    done = avrt(*fit_arguments("sft", world, tmp_path, *SMALL, "--data.prompt.max_prompt_tokens", 60), check=False)
    assert done.returncode == 1
    assert "none of the 48 training samples could be used" in done.stderr.splitlines()[-1]


def test_a_student_with_tied_embeddings_can_be_exported(world, tmp_path):
    fit("sft", world, tmp_path / "first", *SMALL, "--trainer.max_steps", 1)
    avrt("export", "--ckpt_path", tmp_path / "first/checkpoints/step-000001.ckpt", "--out", tmp_path / "plain")
    code = (
        "import json, sys; from pathlib import Path; from safetensors.torch import load_file, save_file\n"
        "folder = Path(sys.argv[1]); path = folder / 'config.json'; config = json.loads(path.read_text())\n"
        "config['tie_word_embeddings'] = config['text_config']['tie_word_embeddings'] = True\n"
        "path.write_text(json.dumps(config)); weights = load_file(folder / 'model.safetensors')\n"
        "del weights['lm_head.weight']\n"
        "save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "plain")], check=True)
    fit("sft", world, tmp_path / "tied", *SMALL, "--trainer.max_steps", 1, "--model.student.source", tmp_path / "plain")
    avrt("export", "--ckpt_path", tmp_path / "tied/checkpoints/step-000001.ckpt", "--out", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["tie_word_embeddings"] is True
    avrt(
        "validate", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.val", world / "val",
        "--data.num_workers", 0, "--model.generation.max_new_tokens", 2, "--model.student.source", tmp_path / "out",
        "--trainer.default_root_dir", tmp_path / "check",
    )  # fmt: skip
