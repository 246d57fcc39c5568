"""The GRPO step on the nano student, in plain PyTorch: what is rewarded, and what padding costs."""

from dataclasses import replace

import pytest
import torch

from avrt.algorithms.groups import GroupQueue, select_groups
from avrt.algorithms.grpo import GRPOOptions, compute_rewards, grpo_step, policy_update
from avrt.algorithms.optimizer import PlainOptimizer, micro_batches
from avrt.algorithms.sft import sft_step
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


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_two_iterations_equal_a_plain_computation_of_the_papers_formulas(batch, loss_type):
    """Weights after two steps on one rollout: the second one is off-policy, so ratio, clip and KL all count."""
    policy, optimizer, trained = made()
    twin, _, twin_trained = made()
    loss = PolicyLoss(loss_type, epsilon=0.05, epsilon_high=0.1, beta=0.3)
    options = GRPOOptions(
        group_size=3, sampling=SamplingOptions(max_new_tokens=6), loss=loss, num_iterations=2, micro_batch_size=3
    )
    rewards = RewardSum(RewardOptions(extra=[BREVITY]))
    done = grpo_step(policy, Reference(policy), batch, optimizer, rewards, options)

    tokens = [completion.token_ids for completion in done.rollout.completions]
    total = done.rollout.rewards["total"]
    advantages = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
    each = torch.cat([advantage.expand(len(t)) for advantage, t in zip(advantages.flatten(), tokens, strict=True)])
    prompts, old, ratios = twin.encode(batch), None, []
    for _ in range(2):
        logprobs = twin.logprobs(prompts, tokens).logprobs
        old = logprobs.detach() if old is None else old
        ratio = (logprobs - old).exp()
        ratios.append(ratio.detach())
        apart = old - logprobs  # the reference is the policy before the step
        token_loss = -torch.minimum(ratio * each, ratio.clamp(0.95, 1.1) * each) + 0.3 * (apart.exp() - apart - 1)
        for parameter in twin_trained:
            parameter.grad = None
        of_completions = token_loss.split([len(t) for t in tokens])
        mean = (
            torch.stack([part.mean() for part in of_completions]).mean() if loss_type == "grpo" else token_loss.mean()
        )
        mean.backward()
        with torch.no_grad():
            for parameter in twin_trained:
                parameter -= 0.1 * parameter.grad
    assert (ratios[1] - 1).abs().max() > 0.02, "the second step is as good as on-policy: this would show nothing"
    for ours, theirs in zip(trained, twin_trained, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_metrics_are_sums_over_what_counts(batch, builder):
    _, told = step(batch, micro_batch_size=4)
    _, padded = step(collate([batch, builder.padding_row()]), micro_batch_size=5)
    for name, value in told.metrics.items():
        assert torch.allclose(value.float(), padded.metrics[name].float(), atol=1e-5), name
    assert told.metrics["entropy"] / 12 > 1  # nats, of an untrained student
    assert told.metrics["ratio"] / 12 == pytest.approx(1.0)
    assert 0 <= told.metrics["mismatch"] / 12 < 1e-4


def test_the_sampler_mismatch_is_a_distance(nano, batch):
    """Recorded log-probabilities that lie above and below the policy's must not cancel."""
    policy, optimizer, _ = made()
    sampling = SamplingOptions(max_new_tokens=4)
    prompts = policy.encode(batch)
    completions = policy.generate(prompts, sampling, seeds=list(range(8)), group_size=2)
    shifted = [replace(c, logprobs=c.logprobs + (0.5 if i % 2 else -0.5)) for i, c in enumerate(completions)]
    options = GRPOOptions(group_size=2, sampling=sampling, loss=PolicyLoss(beta=0.0))
    rollout = compute_rewards(policy, batch, shifted, RewardSum(RewardOptions()), options)
    metrics = policy_update(policy, None, select_groups(prompts, rollout, None), optimizer, options)
    assert metrics["mismatch"] / metrics["completions"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("cap", "ahead"), [(0.0, 1), (1.2, 1), (1.2, 0)])
def test_a_stale_group_is_corrected_by_clip_or_by_importance_weight(batch, cap, ahead):
    """The clip lies around the policy that sampled; with rollouts ahead and a cap around the one before the update."""
    policy, optimizer, trained = made()
    twin, _, twin_trained = made()
    sampling, loss = SamplingOptions(max_new_tokens=4), PolicyLoss(beta=0.0, importance_sampling_cap=cap)
    options = GRPOOptions(group_size=2, sampling=sampling, loss=loss, micro_batch_size=4, rollout_ahead=ahead)
    prompts = policy.encode(batch)
    completions = policy.generate(prompts, sampling, seeds=list(range(8)), group_size=2)
    shifts = [torch.linspace(-0.4, 0.4, len(c.token_ids)) for c in completions]
    older = [replace(c, logprobs=c.logprobs + s) for c, s in zip(completions, shifts, strict=True)]
    rollout = compute_rewards(policy, batch, older, RewardSum(RewardOptions(extra=[BREVITY])), options)
    groups = select_groups(prompts, rollout, None, staleness=1)
    metrics = policy_update(policy, None, groups, optimizer, options)
    assert metrics["staleness"] == metrics["completions"] == 8

    tokens = [completion.token_ids for completion in older]
    advantages = rollout.advantages.flatten()
    each = torch.cat([a.expand(len(t)) for a, t in zip(advantages, tokens, strict=True)])
    logprobs, recorded = twin.logprobs(prompts, tokens).logprobs, torch.cat([c.logprobs for c in older])
    if cap and ahead:
        weight = (logprobs.detach() - recorded).exp()
        assert weight.max() > cap > weight.min()
        token_loss = -(logprobs - logprobs.detach()).exp() * each * weight.clamp(max=cap)
    else:
        ratio = (logprobs - recorded).exp()
        token_loss = -torch.minimum(ratio * each, ratio.clamp(0.8, 1.2) * each)
    torch.stack([part.mean() for part in token_loss.split([len(t) for t in tokens])]).mean().backward()
    assert metrics["mismatch"] / 8 == pytest.approx(0.2666 if ahead else 0.0, abs=0.08 if ahead else 1e-6)
    for ours, theirs in zip(trained, twin_trained, strict=True):
        assert torch.allclose(ours, theirs - 0.1 * theirs.grad, atol=2e-6)


def test_each_group_has_its_own_completions_and_a_batch_of_one_fills_its_own_step(nano, batch, builder):
    rollout_of = GRPOOptions(group_size=2, sampling=SamplingOptions(max_new_tokens=4))
    rewards = RewardSum(RewardOptions())
    padded = collate([batch, builder.padding_row()])
    prompts = nano.encode(padded)
    completions = nano.generate(prompts, rollout_of.sampling, seeds=list(range(10)), group_size=2)
    rollout = compute_rewards(nano, padded, completions, rewards, rollout_of)
    groups = select_groups(prompts, rollout, None)
    assert [group.valid for group in groups] == [True] * 4 + [False]
    for b, group in enumerate(groups):
        assert group.completions == completions[2 * b : 2 * b + 2]
        assert group.prompt.token_ids[0] is prompts.token_ids[b]

    alone = nano.encode(builder.padding_row())
    one = compute_rewards(nano, builder.padding_row(), completions[:2], rewards, rollout_of)
    [filled] = select_groups(alone, one, GroupQueue(patience=1))
    assert not filled.valid


def test_dynamic_sampling_waits_until_a_step_is_full(batch):
    """A batch whose groups all have equal rewards brings no step; the next one, with unequal rewards, does."""
    policy, optimizer, trained = made()
    options = GRPOOptions(group_size=3, sampling=SamplingOptions(max_new_tokens=8), loss=PolicyLoss(beta=0.0))
    rewards, queue = RewardSum(RewardOptions(extra=[BREVITY])), GroupQueue(patience=3)
    before = [p.detach().clone() for p in trained]
    equal = RewardSum(RewardOptions())  # an untrained student gets nothing for any completion
    waited = grpo_step(policy, None, batch, optimizer, equal, options, queue=queue)
    assert waited.rollout.zero_std.all()
    assert waited.metrics is None
    assert (len(queue), queue.batches) == (0, 1)
    assert all(torch.equal(p, b) for p, b in zip(trained, before, strict=True))
    done = grpo_step(policy, None, batch, optimizer, rewards, options, queue=queue)
    assert done.metrics["completions"] == 12
    assert not all(torch.equal(p, b) for p, b in zip(trained, before, strict=True))
    assert all(0 <= seconds < 60 for seconds in done.seconds.values())


class Told(PlainOptimizer):
    """Notes what a step tells its optimizer."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.told = []

    def zero_grad(self):
        self.told.append("zero_grad")
        super().zero_grad()

    def backward(self, loss, *, last):
        self.told.append("last" if last else "backward")
        super().backward(loss, last=last)

    def step(self):
        self.told.append("step")
        super().step()


@pytest.mark.parametrize(("questions", "passes"), [(1, ["last"]), (4, ["backward", "last"])])
def test_the_optimizer_is_told_where_a_step_begins_and_ends(batch, builder, questions, passes):
    """DeepSpeed reduces gradients at the last micro-batch, so that it has to know which one that is."""
    policy, plain, _ = made()
    few = builder.row(batch.samples[0], batch.clips[0]) if questions == 1 else batch
    optimizer = Told(plain.optimizer)
    options = GRPOOptions(
        group_size=2, sampling=SamplingOptions(max_new_tokens=3), loss=PolicyLoss(beta=0.0), micro_batch_size=2,
        num_iterations=2,
    )  # fmt: skip
    grpo_step(policy, None, few, optimizer, RewardSum(RewardOptions()), options)
    assert optimizer.told == ["zero_grad", *passes, "step"] * 2
    optimizer.told.clear()
    sft_step(policy, few, optimizer, micro_batch_size=2)
    assert optimizer.told == ["zero_grad", *passes, "step"]
