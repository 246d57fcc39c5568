"""The GRPO step on the nano student, in plain PyTorch: what is rewarded, and what padding costs."""

import pytest
import torch

from avrt.algorithms.grpo import GRPOOptions, compute_rewards, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer, micro_batches
from avrt.data.inputs.batch import collate
from avrt.objectives.policy_loss import PolicyLoss
from avrt.objectives.rewards import ExtraReward, RewardOptions, RewardSum
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions

BREVITY = ExtraReward("tests.algorithms.test_grpo.brevity")
LOUD = ExtraReward("tests.algorithms.test_grpo.loudness")


def brevity(response, sample, clip):
    return -len(response.text) / 100


def loudness(response, sample, clip):
    return float(clip.audio.abs().max())


def made(seed=0):
    policy = load_policy(StudentOptions(source="nano", dtype="float32", seed=seed)).train()
    trained = [p for p in policy.parameters() if p.requires_grad]
    return policy, PlainOptimizer(torch.optim.SGD(trained, lr=0.1), max_norm=None), trained


def step(batch, **options):
    """One step from the same student: the gradient-like change of its weights, and what the step tells."""
    policy, optimizer, trained = made()
    before = [p.detach().clone() for p in trained]
    sampling = SamplingOptions(max_new_tokens=8)
    done = grpo_step(
        policy, Reference(policy), batch, optimizer, RewardSum(RewardOptions(extra=[BREVITY])),
        GRPOOptions(group_size=3, sampling=sampling, **options),
    )  # fmt: skip
    return [p.detach() - b for p, b in zip(trained, before, strict=True)], done


def test_micro_batches_and_padding_do_not_change_the_step(batch, builder):
    whole, told = step(batch, micro_batch_size=4)
    assert any(change.abs().max() > 0 for change in whole)
    padded = collate([batch, builder.padding_row()])
    for other, size in ((batch, 1), (padded, 2), (padded, 5)):
        changes, done = step(other, micro_batch_size=size)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, changes, strict=True))
        assert done.metrics["completions"] == told.metrics["completions"] == 12


def test_padding_samples_are_not_rewarded(nano, batch, builder):
    """A reward that looks at the sound would fail on a row that has none."""
    padded = collate([builder.padding_row(), batch])
    sampling, rewards = SamplingOptions(max_new_tokens=4), RewardSum(RewardOptions(extra=[LOUD]))
    completions = nano.generate(nano.encode(padded), sampling, seeds=list(range(10)), group_size=2)
    rollout = compute_rewards(nano, padded, completions, rewards, GRPOOptions(group_size=2))
    assert rollout.rewards["loudness"][0].tolist() == [0, 0]
    assert (rollout.rewards["loudness"][1:] > 0).all()
    assert set(rollout.rewards) == {"format", "accuracy", "length", "loudness", "total"}


def test_without_a_penalty_no_reference_is_needed(batch):
    policy, optimizer, _ = made()
    options = GRPOOptions(group_size=2, sampling=SamplingOptions(max_new_tokens=4), loss=PolicyLoss(beta=0.0))
    done = grpo_step(policy, None, batch, optimizer, RewardSum(RewardOptions()), options)
    assert done.metrics["kl"] == 0
    with pytest.raises(ValueError, match="beta"):
        grpo_step(policy, None, batch, optimizer, RewardSum(RewardOptions()), GRPOOptions(group_size=2))


def test_micro_batches_cover_all_rows_once():
    assert micro_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert micro_batches(2, 4) == [[0, 1]]
