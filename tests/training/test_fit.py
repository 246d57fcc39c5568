"""Training for real under DeepSpeed: processes, ZeRO stages and micro-batches do not change the numbers."""

import statistics

import pytest

from tests.training.runs import SMALL, fit
from tests.training.test_shared_prompts import TALKATIVE

UNLOADED = ("--trainer.strategy.offload_optimizer", "false")


def assert_same(step, other):
    """Loss and norm of the gradients of one optimizer step."""
    assert step["train/loss"] == pytest.approx(other["train/loss"], abs=1e-4)
    assert step["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-3)


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
        assert_same(two[step], sft_run[1][step])


@pytest.mark.parametrize(("micro", "stage"), [(1, 2), (8, 2), (2, 3)])
def test_micro_batches_do_not_change_the_step(sft_run, world, tmp_path, micro, stage):
    steps = fit(
        "sft", world, tmp_path, "--data.num_workers", 0, "--model.micro_batch_size", micro, "--data.batch_size", 8,
        "--trainer.max_steps", 3, "--trainer.strategy.stage", stage,
    )  # fmt: skip
    for step in range(3):
        assert_same(steps[step], sft_run[1][step])


@pytest.mark.parametrize(
    "options", [("--trainer.strategy", "auto"), *(("--trainer.strategy.stage", n, *UNLOADED) for n in (1, 3))]
)
def test_the_norm_of_gradients_is_told_before_clipping_whatever_the_strategy(sft_run, world, tmp_path, options):
    """Without DeepSpeed nothing is clipped, and the norm is PyTorch's own; its first step has the same weights."""
    steps = fit(
        "sft", world, tmp_path, *SMALL, "--data.batch_size", 8, "--trainer.max_steps", 1, *options
    )  # fmt: skip
    assert sft_run[1][0]["train/grad_norm"] > 1.5, "nothing would be clipped, so that this would test nothing"
    assert_same(steps[0], sft_run[1][0])


def test_answers_that_were_cut_off_can_be_left_out_of_the_loss(world, tmp_path):
    """Three tokens end no answer of a random student, so nothing is left to learn from; the KL penalty goes too."""
    shared = (*SMALL, "--data.batch_size", 4, "--model.rollout.max_new_tokens", 3, "--trainer.max_steps", 2,
              "--model.mask_truncated_completions", "true", "--model.rewards.extra",
              '[{"function": "tests.training.test_shared_prompts.talkative"}]')  # fmt: skip
    steps = fit("grpo", world, tmp_path, *shared)
    for values in steps.values():
        assert values["completions/cut_off"] == 1.0
        assert values["rewards/total/std"] > 0
        assert values["train/loss"] == 0.0
        assert values["policy/entropy"] == 0.0


def test_grpo_two_processes_under_zero3_equal_one(world, tmp_path):
    """Sampling, rewards, reference and update under partitioned parameters; 2 updates on each rollout."""
    # Rewarded for talking: without rewards there is no gradient but rounding, which Adam turns into full steps.
    shared = (*TALKATIVE, "--model.group_size", 4, "--model.rollout.max_new_tokens", 24, "--trainer.max_steps", 4,
              "--model.num_iterations", 2)  # fmt: skip
    one = fit("grpo", world, tmp_path / "one", *shared, "--data.batch_size", 4)
    assert all(values["rewards/total/std"] > 0 for values in one.values())
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
        "advantage/reward_spread", "advantage/zero_std_groups", "policy/clip_fraction", "completions/cut_off",
        "seconds/rollout", "seconds/reward", "seconds/update",
    } <= set(last)  # fmt: skip


def test_grpo_raises_the_reward(world, tmp_path):
    """From a student with random weights."""
    steps = fit("grpo", world, tmp_path, *TALKATIVE, "--trainer.max_steps", 24, "--model.optimizer.lr", 1e-3)
    rewards = [values["rewards/total/mean"] for _, values in sorted(steps.items())]
    assert statistics.mean(rewards[-5:]) > statistics.mean(rewards[:5]) + 0.05
