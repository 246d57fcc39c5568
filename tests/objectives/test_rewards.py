"""AVRT eq. 3-6 against hand-worked numbers; rewards by name and by import path."""

import math

import pytest
import torch

from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.objectives.rewards import REGISTRY, ExtraReward, LengthReward, RewardOptions, RewardSum, find_reward, register
from tests.conftest import make_sample


def answer(words: int, letter: str = "B") -> str:
    return f"<think>{'word ' * words}</think><answer>{letter}</answer>"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (100, 1.0),
        (120, math.exp(-0.5)),
        (60, math.exp(-2)),
        (199, math.exp(-(99**2) / 800)),
        (200, math.exp(-(100**2) / 800) + 0.2),
        (300, math.exp(-(200**2) / 800) + 0.2),
        (301, math.exp(-(201**2) / 800)),
        (0, 0.0),
    ],
)
def test_length_reward_of_the_paper(words, expected):
    total = RewardSum(RewardOptions())(answer(words), make_sample(), Clip())
    assert total["length"] == pytest.approx(expected, abs=1e-12)


def test_length_reward_never_exceeds_one():
    shape = LengthReward(mu=50, sigma=10, w_min=40, w_max=60, bonus=0.2)
    rewards = RewardSum(RewardOptions(length_shape=shape))
    assert rewards(answer(50), make_sample(), Clip())["length"] == 1.0
    assert rewards(answer(58), make_sample(), Clip())["length"] == pytest.approx(math.exp(-0.32) + 0.2)


def test_sum_of_the_three():
    rewards = RewardSum(RewardOptions())
    assert rewards(answer(100), make_sample(), Clip()) == {"format": 1.0, "accuracy": 1.0, "length": 1.0, "total": 3.0}
    wrong = rewards(answer(100, "A"), make_sample(), Clip())
    assert (wrong["accuracy"], wrong["total"]) == (0.0, 2.0)
    unformatted = rewards("It is <answer>B</answer>", make_sample(), Clip())
    assert unformatted == {"format": 0.0, "accuracy": 1.0, "length": 0.0, "total": 1.0}


def test_weights_and_switching_off():
    rewards = RewardSum(RewardOptions(format=0.5, accuracy=2.0, length=0.0))
    assert rewards(answer(3), make_sample(), Clip()) == {"format": 1.0, "accuracy": 1.0, "total": 2.5}


def shouting(response, sample, clip):
    return float("!" in response.text)


def test_own_reward_by_import_path():
    extra = ExtraReward("tests.objectives.test_rewards.shouting", weight=3.0)
    rewards = RewardSum(RewardOptions(length=0.0, extra=[extra]))
    assert rewards(answer(3) + "!", make_sample(), Clip())["total"] == pytest.approx(0.0 + 1.0 + 3.0)


def loudness(response, sample, clip):
    return float(clip.audio.abs().max())


def test_a_reward_can_look_at_the_clip():
    clip = Clip(audio=torch.tensor([0.0, -0.5, 0.25]))
    rewards = RewardSum(RewardOptions(length=0.0, extra=[ExtraReward("tests.objectives.test_rewards.loudness", 2.0)]))
    values = rewards(answer(3), make_sample(), clip)
    assert (values["loudness"], values["total"]) == (0.5, 3.0)


@pytest.mark.parametrize("name", ["nothing", "tests.objectives.test_rewards.missing", "no.such.module", "math.pi"])
def test_unknown_reward_is_named(name):
    with pytest.raises(AvrtError, match=name):
        find_reward(name)


def test_a_question_without_a_label_cannot_be_rewarded():
    with pytest.raises(AvrtError, match="'q'"):
        RewardSum(RewardOptions())(answer(3), make_sample(answer=None), Clip())


def test_registered_rewards_are_found_by_name_and_stay_what_they_are():
    assert find_reward("format") is REGISTRY["format"]
    assert find_reward("accuracy") is REGISTRY["accuracy"]
    try:
        assert register("shouting")(shouting) is shouting
        assert find_reward("shouting") is shouting
        values = RewardSum(RewardOptions(length=0.0, extra=[ExtraReward("shouting")]))(
            answer(3) + "!", make_sample(), Clip()
        )
        # text behind the answer is not well formed; the reward's own weight is 1 if none is given
        assert values == {"format": 0.0, "accuracy": 1.0, "shouting": 1.0, "total": 2.0}
    finally:
        del REGISTRY["shouting"]


def test_rewards_are_numbers():
    """They go into tensors and JSON, where true is not 1."""
    for text in (answer(5), answer(5, "A"), "nothing"):
        assert all(type(value) is float for value in RewardSum(RewardOptions())(text, make_sample(), Clip()).values())


def test_defaults_are_those_of_the_paper():
    options, shape = RewardOptions(), LengthReward()
    assert (options.format, options.accuracy, options.length, options.extra) == (1.0, 1.0, 1.0, [])
    assert (shape.mu, shape.sigma, shape.w_min, shape.w_max, shape.bonus) == (100.0, 20.0, 200, 300, 0.2)


def test_one_word_is_reasoning_and_negative_weights_are_penalties():
    shape = LengthReward(mu=1, sigma=1, w_min=5, w_max=6)
    rewards = RewardSum(RewardOptions(format=-2.0, length=1.0, length_shape=shape))
    assert rewards(answer(1), make_sample(), Clip()) == {"format": 1.0, "accuracy": 1.0, "length": 1.0, "total": 0.0}


@pytest.mark.parametrize("name", ["builtins.dict", "math.pi", "tests.objectives.test_rewards.LengthReward"])
def test_what_is_no_function_is_refused(name):
    with pytest.raises(AvrtError, match="is not a function"):
        find_reward(name)


def two_arguments(response, sample):
    return 1.0


def test_a_reward_that_does_not_take_the_clip_is_refused_before_anything_runs():
    with pytest.raises(AvrtError, match=r"three arguments \(define \(response, sample, clip\)"):
        find_reward("tests.objectives.test_rewards.two_arguments")


@pytest.mark.parametrize(
    ("given", "right", "formed"),
    [
        ("A,C", 1, 1),
        ("C and A", 1, 1),
        ("AC", 1, 1),
        ("A", 0, 1),
        ("A,B,C", 0, 1),
        ("B", 0, 1),
        ("A,D", 0, 0),
        ("A.C", 0, 0),
    ],
)
def test_all_right_choices_and_none_more_earn_the_reward(given, right, formed):
    sample = make_sample(answer=(0, 2), several=True)
    rewards = RewardSum(RewardOptions())(answer(3, given), sample, Clip())
    assert (rewards["accuracy"], rewards["format"]) == (right, formed)
