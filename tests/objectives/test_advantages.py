"""AVRT eq. 2 against hand-worked numbers."""

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
