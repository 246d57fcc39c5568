"""Training for real: DeepSpeed on one and two processes, killed and resumed, exported and tested."""

import json
import shutil

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.models.export import student_from_checkpoint
from tests.conftest import avrt
from tests.training.runs import fit, fit_and_kill, logged

SMALL = ("--data.num_workers", 0, "--model.micro_batch_size", 4)


@pytest.fixture(scope="module")
def sft_run(world, tmp_path_factory):
    """One process, 6 steps of 8 samples, a checkpoint at the end: what other runs are compared with."""
    root = tmp_path_factory.mktemp("sft")
    return root, fit("sft", world, root, *SMALL, "--data.batch_size", 8, "--trainer.max_steps", 6)


def test_sft_learns_and_logs(sft_run):
    root, steps = sft_run
    losses = [values["train/loss"] for values in steps.values()]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert {"train/token_accuracy", "train/lr", "train/tokens_per_second"} <= set(steps[0])
    assert (root / "checkpoints" / "step-000006.ckpt" / "latest").is_file()


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_equal_one(sft_run, world, tmp_path, stage):
    """Same global batches of samples, so the same losses, before and after updates."""
    two = fit(
        "sft", world, tmp_path, *SMALL, "--data.batch_size", 4, "--trainer.max_steps", 3, "--trainer.devices", 2,
        "--trainer.strategy.stage", stage,
    )  # fmt: skip
    for step in range(3):
        assert two[step]["train/loss"] == pytest.approx(sft_run[1][step]["train/loss"], abs=1e-4)


@pytest.mark.parametrize("micro", [1, 8])
def test_micro_batches_do_not_change_the_step(sft_run, world, tmp_path, micro):
    steps = fit(
        "sft", world, tmp_path, "--data.num_workers", 0, "--model.micro_batch_size", micro, "--data.batch_size", 8,
        "--trainer.max_steps", 3,
    )  # fmt: skip
    for step in range(3):
        assert steps[step]["train/loss"] == pytest.approx(sft_run[1][step]["train/loss"], abs=1e-4)


def test_grpo_two_processes_under_zero3_equal_one(world, tmp_path):
    """Sampling, rewards, reference and update under partitioned parameters; 2 updates on each rollout."""
    shared = (*SMALL, "--model.group_size", 4, "--model.rollout.max_new_tokens", 24, "--trainer.max_steps", 4,
              "--model.updates_per_rollout", 2)  # fmt: skip
    one = fit("grpo", world, tmp_path / "one", *shared, "--data.batch_size", 4)
    two = fit(
        "grpo", world, tmp_path / "two", *shared, "--data.batch_size", 2, "--trainer.devices", 2,
        "--trainer.strategy.stage", 3,
    )  # fmt: skip
    names = ("train/loss", "policy/kl", "policy/entropy", "completions/tokens", "rewards/total/mean")
    for step, values in one.items():
        for name in names:
            assert two[step][name] == pytest.approx(values[name], abs=1e-4), (step, name)
    last = one[max(one)]
    assert last["policy/kl"] > 0
    assert {
        "rewards/format/mean", "rewards/accuracy/std", "rewards/length/mean", "rewards/total/std",
        "advantage/reward_spread", "advantage/equal_groups", "policy/clip_fraction", "completions/cut_off",
        "seconds/rollout", "seconds/reward", "seconds/update",
    } <= set(last)  # fmt: skip


@pytest.mark.parametrize(("stage", "workers"), [("sft", 0), ("sft", 2), ("grpo", 0)])
def test_killed_run_resumes_as_if_unbroken(world, tmp_path, stage, workers):
    common = ("--data.num_workers", workers, "--data.batch_size", 4, "--model.micro_batch_size", 4,
              "--trainer.max_epochs", 2, "--trainer.max_steps", 20,
              "--checkpoint.every_n_train_steps", 3)  # fmt: skip
    if stage == "grpo":
        common = (*common, "--model.group_size", 2, "--model.rollout.max_new_tokens", 16)
    unbroken = fit(stage, world, tmp_path / "whole", *common)
    root = tmp_path / "killed"
    fit_and_kill(stage, world, root, *common)
    before = logged(root)
    assert len(before) < 20
    shutil.rmtree(root / "lightning_logs")
    resumed = fit(stage, world, root, *common, "--ckpt_path", "last")
    assert min(resumed) > 0, "the resumed run began anew"
    assert max(resumed) == 19
    timing = ("seconds/", "train/tokens_per_second")
    for step in resumed:
        for name, value in unbroken[step].items():
            if not name.startswith(timing):
                assert resumed[step][name] == pytest.approx(value, rel=1e-6, abs=1e-7), (step, name)


def test_export_has_the_logits_of_the_checkpoint_and_can_be_tested_and_asked(sft_run, world, tmp_path):
    checkpoint = sft_run[0] / "checkpoints" / "step-000006.ckpt"
    avrt("export", "--ckpt_path", checkpoint, "--out", tmp_path / "model")
    student = student_from_checkpoint(checkpoint)
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "model")
    ids = torch.arange(20, 90)[None]
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (student.thinker, loaded))
    assert torch.equal(ours, theirs)
    nano = ("--config", "sft.yaml", "--config", "nano/sft.yaml", "--trainer.logger", "false", "--data.num_workers", 0)
    answers = {}
    for name, extra in {
        "checkpoint": ("--ckpt_path", checkpoint),
        "export": ("--model.student.source", tmp_path / "model"),
        "two": ("--model.student.source", tmp_path / "model", "--trainer.devices", 2, "--data.eval_batch_size", 3),
    }.items():
        root = tmp_path / name
        avrt("test", *nano, *extra, "--data.test", world / "test", "--trainer.default_root_dir", root)
        answers[name] = [json.loads(line) for line in (root / "predictions.jsonl").read_text().splitlines()]
        assert len(answers[name]) == 8
    assert answers["checkpoint"] == answers["export"] == answers["two"]
    clip = next((world / "clips" / "test").glob("*.mp4"))
    asked = avrt(
        "predict", *nano, "--model.student.source", tmp_path / "model", "--trainer.default_root_dir", tmp_path / "ask",
        "--data.ask.clip", clip, "--data.ask.question", "What is seen?", "--data.ask.choices", '["a ball", "a box"]',
        "--data.ask.spec.budget.min_pixels", 3136, "--data.ask.spec.budget.max_pixels", 3136,
    )  # fmt: skip
    assert "What is seen?" in asked.stdout
    [record] = (tmp_path / "ask" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(record)["correct"] is None
