"""AVRT eq. 2 against hand-worked numbers."""

import warnings

import pytest
import torch

from avrt.objectives.advantages import group_advantages


def test_hand_worked_group():
    # mean 2, deviations -2, 0, 0, 2: variance 8/4 = 2 over G, 8/3 over G - 1
    rewards = torch.tensor([[0.0, 2.0, 2.0, 4.0]])
    biased, equal = group_advantages(rewards)
    assert biased[0].tolist() == pytest.approx([-(2**0.5), 0, 0, 2**0.5])
    assert not equal[0]
    unbiased, _ = group_advantages(rewards, unbiased=True)
    assert unbiased[0].tolist() == pytest.approx([-2 / (8 / 3) ** 0.5, 0, 0, 2 / (8 / 3) ** 0.5])
    plain, _ = group_advantages(rewards, normalize_std=False)
    assert plain[0].tolist() == [-2, 0, 0, 2]


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[1.0, 0.0], [10.0, 30.0]])
    assert group_advantages(rewards)[0].tolist() == [pytest.approx([1, -1]), pytest.approx([-1, 1])]


@pytest.mark.parametrize("value", [0.0, 1.0, 2.2, 1e6])
def test_equal_rewards_have_no_advantage_and_are_counted(value):
    noisy = value + torch.tensor([[0.0, 1e-7, -1e-7, 0.0]]) * max(1.0, value)
    advantages, equal = group_advantages(torch.cat([noisy, torch.tensor([[0.0, 1.0, 0.0, 1.0]])]))
    assert equal.tolist() == [True, False]
    assert advantages[0].tolist() == [0, 0, 0, 0]
    assert torch.isfinite(advantages).all()


@pytest.mark.parametrize(("value", "spread", "same"), [
    (0.0, 5e-7, True), (0.0, 1e-6, True), (0.0, 1.5e-6, False), (0.5, 5e-7, True), (1.0, 3e-6, False),
    (-1e4, 4e-3, True), (-1e4, 3e-2, False), (1e4, 4e-3, True), (1e4, 3e-2, False),
])  # fmt: skip
def test_differences_count_beyond_a_millionth_of_the_largest_reward(value, spread, same):
    """Or of 1 where the rewards are smaller; also below 0, where all rewards are penalties."""
    rewards = torch.tensor([[value, value + spread]], dtype=torch.float64)
    advantages, equal = group_advantages(rewards)
    assert equal.item() == same
    assert advantages[0].tolist() == ([0, 0] if same else pytest.approx([-1, 1]))


def test_a_single_answer_has_nothing_to_be_compared_with():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a deviation over G - 1 = 0 would be warned of
        advantages, equal = group_advantages(torch.tensor([[3.0], [0.0]]), unbiased=True)
    assert advantages.tolist() == [[0.0], [0.0]]
    assert equal.tolist() == [True, True]


def test_without_the_deviation_equal_rewards_still_have_none():
    advantages, equal = group_advantages(torch.tensor([[2.2, 2.2 + 2e-7], [1.0, 2.0]]), normalize_std=False)
    assert advantages.tolist() == [[0.0, 0.0], [-0.5, 0.5]]
    assert equal.tolist() == [True, False]
