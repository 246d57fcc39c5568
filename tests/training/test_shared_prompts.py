"""Learning is unchanged by reading each prompt once: the same rewards step by step."""

import pytest

from tests.training.runs import fit

REWARD = '[{"function": "tests.training.test_shared_prompts.talkative"}]'
TALKATIVE = (
    "--data.num_workers", 0, "--data.batch_size", 4, "--model.micro_batch_size", 2, "--model.group_size", 4,
    "--model.rollout.max_new_tokens", 24, "--trainer.max_epochs", 2, "--model.rewards.extra", REWARD,
)  # fmt: skip


def talkative(response, sample, clip):
    """A reward that even a random student gets some of: how much it writes."""
    return len(response.text) / 100


def test_grpo_with_shared_and_with_copied_prompts_learns_the_same(world, tmp_path):
    """At a small rate: once rounding has tipped a single token, all later answers differ."""
    options = (*TALKATIVE, "--trainer.max_steps", 20)
    shared = fit("grpo", world, tmp_path / "shared", *options)
    copied = fit("grpo", world, tmp_path / "copied", *options, "--model.share_prefix", "false")
    assert len(shared) == 20
    for step, values in shared.items():
        for name in ("rewards/total/mean", "rewards/total/std", "completions/tokens", "policy/entropy"):
            assert copied[step][name] == pytest.approx(values[name], rel=1e-3), (step, name)
