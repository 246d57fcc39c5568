"""AVRT eq. 2 against hand-worked numbers."""

import warnings

import pytest
import torch

from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.objectives.advantages import group_advantages
from avrt.objectives.rewards import LengthReward, RewardOptions, RewardSum


def test_hand_worked_group():
    # mean 2, deviations -2, 0, 0, 2: variance 8/4 = 2 over G, 8/3 over G - 1
    rewards = torch.tensor([[0.0, 2.0, 2.0, 4.0]])
    by_default, equal = group_advantages(rewards)
    assert by_default[0].tolist() == pytest.approx([-2 / ((8 / 3) ** 0.5 + 1e-4), 0, 0, 2 / ((8 / 3) ** 0.5 + 1e-4)])
    assert not equal[0]
    biased, _ = group_advantages(rewards, unbiased=False, epsilon=0.0)
    assert biased[0].tolist() == pytest.approx([-(2**0.5), 0, 0, 2**0.5])
    wide, _ = group_advantages(rewards, unbiased=False, epsilon=2 - 2**0.5)
    assert wide[0].tolist() == pytest.approx([-1, 0, 0, 1])
    plain, _ = group_advantages(rewards, normalize_std=False)
    assert plain[0].tolist() == [-2, 0, 0, 2]


def test_nearly_equal_lengths_are_nearly_no_reason():
    """Four right answers of 190, 185, 195 and 188 words, in the printed window's gap: the bell's tail tells them apart.

    exp(-(w - 100)^2 / 800) in units of 1e-5: 4.0066, 11.9613, 1.2607, 6.2521; mean 5.8702; deviations -1.8636, 6.0911,
    -4.6095, 0.3819; squares 3.4730, 37.1015, 21.2475, 0.1459, sum 61.9679; over 3, and the root: 4.5449. With
    10 = 1e-4 added: 14.5449.
    """
    answers = ["<think>" + " ".join(["word"] * words) + "</think><answer>A</answer>" for words in (190, 185, 195, 188)]
    sample = Sample(id="q", question="?", choices=("a", "b"), answer=0)
    printed = RewardSum(RewardOptions())
    rewards = torch.tensor([[printed(text, sample, Clip())["total"] for text in answers]], dtype=torch.float64)
    assert (rewards[0] - 2).tolist() == pytest.approx([4.0066e-5, 11.9613e-5, 1.2607e-5, 6.2521e-5], abs=1e-9)
    advantages, equal = group_advantages(rewards)
    assert not equal[0]
    assert advantages[0].tolist() == pytest.approx([-0.1281, 0.4188, -0.3169, 0.0263], abs=1e-4)
    undamped, _ = group_advantages(rewards, epsilon=0.0)
    assert undamped[0].tolist() == pytest.approx([-0.4100, 1.3402, -1.0142, 0.0840], abs=1e-4)

    corrected = RewardSum(RewardOptions(length_shape=LengthReward(w_min=100, w_max=200)))
    bonus = [corrected(text, sample, Clip())["length"] for text in answers]
    assert bonus == pytest.approx([0.20004, 0.20012, 0.20001, 0.20006], abs=5e-6)

    for same in (3.0, 2.2, 0.0):
        none, equal = group_advantages(torch.full((1, 4), same))
        assert none.tolist() == [[0, 0, 0, 0]]
        assert equal[0]


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[1.0, 0.0], [10.0, 30.0]])
    by_hand = [pytest.approx([1, -1]), pytest.approx([-1, 1])]
    assert group_advantages(rewards, unbiased=False, epsilon=0.0)[0].tolist() == by_hand


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
    advantages, equal = group_advantages(rewards, unbiased=False, epsilon=0.0)
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
