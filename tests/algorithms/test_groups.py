"""Dynamic sampling: groups with equal rewards teach nothing and are left out, and what is too much is kept."""

import io
from dataclasses import replace

import pytest
import torch

from avrt.algorithms.groups import Group, GroupQueue
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.rollout.completion import Completion
from tests.training.runs import SMALL, fit

COIN = '[{"function": "tests.algorithms.test_groups.coin", "weight": 1.0}]'
NEVER = '[{"function": "tests.algorithms.test_groups.nothing", "weight": 1.0}]'


def join_prompts(groups):
    return EncodedPrompts.join([group.prompt for group in groups])


def recorded(groups):
    return torch.cat([completion.logprobs for group in groups for completion in group.completions])


def coin(response, sample, clip):
    """Right for about half of the answers, so that half of the groups of two have equal rewards."""
    return float(sum(response.text.encode()) % 2)


def nothing(response, sample, clip):
    """The same for every answer."""
    return 0.0


def group(number, valid=True):
    prompt = EncodedPrompts(
        [torch.tensor([number])], [torch.zeros(3, 1)], [number + 1], [torch.tensor([0])], [torch.tensor([])],
        ClipFeatures([None], [None]),
    )  # fmt: skip
    completions = [Completion(torch.tensor([1, 2]), torch.tensor([-0.5, -float(number)]), True)]
    return Group(prompt, completions, torch.tensor([1.0]), valid)


def numbers(groups):
    return [int(g.prompt.token_ids[0]) for g in groups]


def test_a_step_waits_until_it_is_full_and_leftovers_come_first():
    queue = GroupQueue(patience=5)
    queue.add([group(i) for i in range(4)], torch.tensor([True, False, True, False]))
    assert queue.take(4, len(queue), group(9)) is None
    queue.add([group(i) for i in range(4, 8)], torch.tensor([False, False, False, True]))
    taken = queue.take(4, len(queue), group(9))
    assert numbers(taken) == [1, 3, 4, 5]
    assert all(g.fresh and g.valid for g in taken)
    queue.add([group(i) for i in range(8, 12)], torch.tensor([False, False, False, True]))
    later = queue.take(4, len(queue), group(9))
    assert numbers(later) == [6, 8, 9, 10]
    assert [g.fresh for g in later] == [False, True, True, True]  # the policy has learned since it sampled the first


def test_patience_ends_and_the_step_is_filled_with_rows_that_do_not_count():
    queue = GroupQueue(patience=2)
    same = torch.ones(2, dtype=torch.bool)
    queue.add([group(0), group(1)], torch.tensor([False, True]))
    assert queue.take(2, 1, group(0)) is None
    queue.add([group(2), group(3, valid=False)], same)
    taken = queue.take(2, 1, group(2))
    assert numbers(taken) == [0, 2]
    assert [g.valid for g in taken] == [True, False]
    assert len(queue) == 0


def test_a_rank_with_plenty_waits_for_the_one_with_fewest_and_does_not_hoard():
    queue = GroupQueue(patience=9)
    for start in range(0, 6, 2):
        queue.add([group(start), group(start + 1)], torch.zeros(2, dtype=torch.bool))
        assert queue.take(2, 0, group(0)) is None
    assert len(queue) == 4
    assert queue.discarded == 2
    assert numbers(queue.take(2, 2, group(0))) == [2, 3]


def test_rows_that_do_not_count_never_wait_whatever_their_rewards():
    queue = GroupQueue(patience=5)
    same = torch.tensor([False, False, True, True])
    queue.add([group(0), group(1, valid=False), group(2), group(3, valid=False)], same)
    assert len(queue) == 1
    assert queue.batches == 1
    assert numbers(queue.take(1, 1, group(9))) == [0]
    assert queue.batches == 0


def test_more_than_two_batches_are_not_kept_and_the_oldest_go():
    queue = GroupQueue(patience=9)
    differ = torch.zeros(2, dtype=torch.bool)
    dropped = []
    for start in (0, 2, 4, 6):
        queue.add([group(start), group(start + 1)], differ)
        dropped.append((queue.discarded, len(queue)))
    queue.add([group(8), group(9)], torch.tensor([True, True]))
    assert [*dropped, (queue.discarded, len(queue))] == [(0, 2), (0, 4), (2, 4), (2, 4), (0, 4)]
    assert numbers(queue.take(4, 4, group(99))) == [4, 5, 6, 7]


def test_patience_is_counted_in_batches_and_begins_anew_with_each_step():
    queue = GroupQueue(patience=3)
    equal = torch.tensor([True])
    for _ in range(2):
        for batch in (1, 2, 3):
            queue.add([group(1)], equal)
            step = queue.take(2, 0, group(7))
            assert (step is None) == (batch < 3)
        assert numbers(step) == [7, 7]
        assert not any(g.valid for g in step)


def test_everything_of_a_group_survives_in_a_checkpoint():
    features = ClipFeatures([torch.full((2, 3), 0.5)], [None])
    prompt = EncodedPrompts(
        [torch.tensor([4, 5])], [torch.arange(6).reshape(3, 2)], [6], [torch.tensor([0])], [torch.tensor([1])], features
    )
    answers = [
        Completion(torch.tensor([1, 2]), torch.tensor([-0.5, -1.5]), True),
        Completion(torch.tensor([3]), torch.tensor([-2.5]), False),
    ]
    before = Group(prompt, answers, torch.tensor([1.0, -1.0]), valid=True, staleness=2)
    buffer = io.BytesIO()
    torch.save(before.to_plain(), buffer)
    buffer.seek(0)
    after = Group.from_plain(torch.load(buffer, weights_only=True), torch.device("cpu"))
    assert isinstance(after.prompt, EncodedPrompts)
    assert isinstance(after.prompt.features, ClipFeatures)
    assert after.prompt.token_ids[0].tolist() == [4, 5]
    assert after.prompt.positions[0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert after.prompt.features.vision[0].tolist() == [[0.5] * 3] * 2
    assert after.prompt.features.audio == [None]
    assert [(c.token_ids.tolist(), c.logprobs.tolist(), c.finished) for c in after.completions] == [
        ([1, 2], [-0.5, -1.5], True),
        ([3], [-2.5], False),
    ]
    assert after.advantages.tolist() == [1.0, -1.0]
    assert (after.valid, after.staleness, after.fresh) == (True, 2, False)


def test_patience_survives_in_a_checkpoint():
    """The rank that has waited longest decides; a run without any share starts from nothing."""
    shares = [{"batches": n, "groups": []} for n in (1, 4, 2)]
    queue = GroupQueue(patience=5)
    queue.load_state_dict(shares, 0, 3, torch.device("cpu"))
    assert queue.batches == 4
    assert queue.state_dict() == {"batches": 4, "groups": []}
    queue.load_state_dict([], 0, 1, torch.device("cpu"))
    assert (queue.batches, len(queue)) == (0, 0)


def test_joining_keeps_the_order():
    groups = [group(3), group(5)]
    assert [int(t) for t in join_prompts(groups).token_ids] == [3, 5]
    features = [ClipFeatures([torch.full((1, 2), float(n))], [torch.full((2, 2), -float(n))]) for n in (3, 5)]
    placed = [
        replace(g, prompt=replace(g.prompt, features=f, positions=[torch.full((3, 1), 10 * n)]))
        for g, f, n in zip(groups, features, (3, 5), strict=True)
    ]
    joined = join_prompts(placed)
    assert [int(p[0]) for p in joined.positions] == [30, 50]
    assert [float(v[0, 0]) for v in joined.features.vision] == [3.0, 5.0]
    assert [float(a[0, 0]) for a in joined.features.audio] == [-3.0, -5.0]
    assert recorded(groups).tolist() == [-0.5, -3.0, -0.5, -5.0]


def test_waiting_groups_survive_in_a_checkpoint_and_are_dealt_to_other_ranks():
    queues = [GroupQueue(patience=9), GroupQueue(patience=9)]
    for rank, queue in enumerate(queues):
        queue.add([group(10 * rank + i) for i in range(3)], torch.zeros(3, dtype=torch.bool))
    buffer = io.BytesIO()
    torch.save([queue.state_dict() for queue in queues], buffer)
    buffer.seek(0)
    shares = torch.load(buffer, weights_only=True)

    def loaded(ranks):
        restored = [GroupQueue(patience=9) for _ in range(ranks)]
        for rank, queue in enumerate(restored):
            queue.load_state_dict(shares, rank, ranks, torch.device("cpu"))
        return [numbers(queue.take(len(queue), len(queue), group(99))) for queue in restored]

    assert loaded(2) == [[0, 1, 2], [10, 11, 12]]
    assert loaded(1) == [[0, 1, 2, 10, 11, 12]]
    assert loaded(3) == [[0, 10], [1, 11], [2, 12]]
    again = GroupQueue(patience=9)
    again.load_state_dict(shares, 1, 2, torch.device("cpu"))
    assert recorded(again.take(3, 3, group(99))).tolist() == [-0.5, -10.0, -0.5, -11.0, -0.5, -12.0]


@pytest.mark.parametrize("devices", [1, 2])
def test_training_takes_steps_on_full_batches_of_groups_that_differ(world, tmp_path, devices):
    options = ("--model.group_size", 2, "--model.rollout.max_new_tokens", 6, "--data.batch_size", 4 // devices)
    rewards = ("--model.rewards.extra", COIN, "--model.rewards.format", 0, "--model.rewards.length", 0)
    steps = fit(
        "grpo", world, tmp_path, *SMALL, *options, *rewards, "--model.rewards.accuracy", 0,
        "--model.dynamic_sampling", 6,
        "--trainer.max_steps", -1, "--trainer.max_epochs", 1, "--trainer.devices", devices,
    )  # fmt: skip
    taken = [s for s in steps.values() if s["train/updated"]]
    batches = 48 // 4
    assert 2 <= len(taken) < batches
    equal = [s["advantage/zero_std_groups"] for s in steps.values() if "advantage/zero_std_groups" in s]
    assert 0 < sum(equal) / len(equal) < 1
    # leftovers were sampled by an earlier policy; all others by the one that learns
    assert all(s["policy/ratio"] == pytest.approx(1.0, abs=0.05) for s in taken)


def test_a_run_with_waiting_groups_goes_on_as_if_unbroken(world, tmp_path):
    options = (
        *SMALL, "--model.group_size", 2, "--model.rollout.max_new_tokens", 6, "--data.batch_size", 2,
        "--trainer.devices", 2, "--model.rewards.extra", COIN, "--model.rewards.format", 0, "--model.rewards.length", 0,
        "--model.rewards.accuracy", 0, "--model.dynamic_sampling", 6, "--trainer.max_epochs", 1,
        "--trainer.max_steps", 5,
    )  # fmt: skip
    every_step = (
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.dirpath", tmp_path,
        "--trainer.callbacks.every_n_train_steps", 1, "--trainer.callbacks.save_top_k", -1,
        "--trainer.callbacks.filename", "{step}",
    )  # fmt: skip
    whole = fit("grpo", world, tmp_path / "whole", *options, *every_step)
    rest = fit("grpo", world, tmp_path / "rest", *options, "--ckpt_path", tmp_path / "step=2.ckpt")
    assert min(rest) > 0
    assert whole[min(rest) - 1]["advantage/waiting_groups"] > 0, "nothing waits, so that this would test nothing"
    assert sum(values["train/updated"] for values in rest.values()) == 3
    for step, values in rest.items():
        learned = ("policy/ratio", "policy/entropy", "train/loss") if values["train/updated"] else ()
        for name in ("train/updated", "advantage/waiting_groups", *learned):
            assert values.get(name) == pytest.approx(whole[step].get(name), abs=1e-6), (step, name)


def test_a_reward_that_never_differs_does_not_stop_training(world, tmp_path):
    options = ("--model.group_size", 2, "--model.rollout.max_new_tokens", 4, "--data.batch_size", 4)
    rewards = ("--model.rewards.extra", NEVER, "--model.rewards.format", 0, "--model.rewards.length", 0)
    steps = fit(
        "grpo", world, tmp_path, *SMALL, *options, *rewards, "--model.rewards.accuracy", 0,
        "--model.dynamic_sampling", 2,
        "--model.loss.beta", 0, "--trainer.max_steps", 2,
    )  # fmt: skip
    assert all(s["train/loss"] == 0 for s in steps.values() if "train/loss" in s)
    assert {s["advantage/zero_std_groups"] for s in steps.values() if "advantage/zero_std_groups" in s} == {1.0}
