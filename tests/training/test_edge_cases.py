"""Answers and prompts that training has to live with: each is handled, counted, and stops nothing."""

from dataclasses import replace

import pytest

from avrt.data.shards.manifest import Manifest
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from tests.conftest import avrt
from tests.training.runs import SMALL, fit, fit_arguments

SHORT = (*SMALL, "--data.batch_size", 4, "--model.group_size", 2)


def rewritten(world, folder, change):
    """The world's training shards with some samples changed."""
    source = ShardSet(world / "train")
    with ShardWriter(folder / "train", Manifest.load(world / "train").spec) as writer:
        for i in range(len(source)):
            raw = source.read(i)
            members = {name: data for name, data in raw.items() if not name.startswith("__") and name != "json"}
            writer.write(change(i, source.sample(i)), members)
    return folder


def test_answers_that_never_end_are_cut_off_and_counted(world, tmp_path):
    steps = fit("grpo", world, tmp_path, *SHORT, "--model.rollout.max_new_tokens", 3, "--trainer.max_steps", 2)
    assert all(s["completions/cut_off"] == 1.0 for s in steps.values())
    assert all(s["completions/tokens"] == 3.0 for s in steps.values())
    # an untrained student gets nothing right, so all groups have equal rewards: no advantage, no loss but the KL
    assert all(s["advantage/zero_std_groups"] == 1.0 for s in steps.values())
    assert all(abs(s["train/loss"]) < 1e-6 for s in steps.values())
    filtered = fit(
        "grpo", world, tmp_path / "filtered", *SHORT, "--model.rollout.max_new_tokens", 3, "--trainer.max_steps", 2,
        "--model.mask_truncated_completions", "true",
    )  # fmt: skip
    assert all(s["train/loss"] == 0.0 for s in filtered.values())


def test_empty_answers_are_counted_and_learned_from(world, tmp_path):
    """A student fine-tuned on empty targets ends each answer at once."""
    silent = rewritten(world, tmp_path / "silent", lambda i, sample: replace(sample, trace=""))
    fit("sft", silent, tmp_path / "sft", *SMALL, "--data.batch_size", 4)
    checkpoint = next((tmp_path / "sft" / "checkpoints").glob("step-*48.ckpt"))
    avrt("export", "--ckpt_path", checkpoint, "--out", tmp_path / "model")
    steps = fit(
        "grpo", world, tmp_path / "grpo", *SHORT, "--model.student.source", tmp_path / "model",
        "--model.rollout.max_new_tokens", 6, "--trainer.max_steps", 2,
    )  # fmt: skip
    assert all(s["completions/empty"] > 0.8 for s in steps.values())
    assert all(s["completions/tokens"] < 2 for s in steps.values())
    assert all(s["rewards/total/mean"] == 0 for s in steps.values())


def test_a_prompt_that_is_too_long_costs_its_own_sample(world, tmp_path):
    long = rewritten(world, tmp_path / "long", lambda i, s: replace(s, question="why " * 900) if i == 5 else s)
    options = ("--model.rollout.max_new_tokens", 4, "--data.prompt.max_prompt_tokens", 500, "--trainer.max_epochs", 1)
    steps = fit("grpo", long, tmp_path / "run", *SHORT, *options, "--trainer.max_steps", -1)
    assert len(steps) == 12
    assert sum(s["train/skipped_samples"] for s in steps.values()) == 1


@pytest.mark.parametrize(
    ("stage", "option", "tokens", "told"),
    [
        ("sft", "--data.prompt.max_prompt_tokens", 17_000, "max_prompt_tokens: prompts of 17000"),
        ("grpo", "--data.prompt.max_prompt_tokens", 17_000, "max_prompt_tokens: prompts of 17000"),
        ("sft", "--model.generation.max_new_tokens", 16_384, "answers of 16384 tokens leave no room for a prompt"),
    ],
)
def test_limits_that_exceed_the_models_context_are_refused_before_training(
    world, tmp_path, stage, option, tokens, told
):
    done = avrt(*fit_arguments(stage, world, tmp_path, *SMALL, option, tokens), check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "context of 16384" in done.stderr
