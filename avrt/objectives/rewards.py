"""The rewards of AVRT eq. 3-6 as plain functions of one response and its question, and their weighted sum.

A reward is a function `(response, sample, clip) -> float`: what the student wrote, what it was asked, and the decoded
frames and sound that it was asked about. Your own needs no registration: name it by import path in YAML,
`rewards.extra: [{function: mypackage.mymodule.my_reward, weight: 0.5}]`.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.errors import AvrtError
from avrt.response import Response, parse_response

Reward = Callable[[Response, Sample, Clip], float]
REGISTRY: dict[str, Reward] = {}


def register(name: str) -> Callable[[Reward], Reward]:
    """Make a reward function known by a short name."""

    def add(function: Reward) -> Reward:
        REGISTRY[name] = function
        return function

    return add


@register("format")
def format_reward(response: Response, sample: Sample, clip: Clip) -> float:
    """AVRT eq. 4: 1 if the response is exactly ``<think>...</think><answer>X</answer>``, else 0.

    Of a question with several right choices X is any number of letters; see `avrt.response.read_letters`.
    """
    return float(response.well_formed)


@register("accuracy")
def accuracy_reward(response: Response, sample: Sample, clip: Clip) -> float:
    """AVRT eq. 5: 1 if the chosen letter is the label, else 0.

    Where several choices may be right, the letters of all right ones are the label: none may lack, none be added.

    Raises:
        AvrtError: If the sample has no label.
    """
    if sample.answer_letter is None:
        raise AvrtError("has no answer to reward", where=f"sample {sample.id!r}")
    return float(response.letter == sample.answer_letter)


@dataclass(frozen=True)
class LengthReward:
    """AVRT eq. 6: min(1, exp(-(w - mu)^2 / (2 sigma^2)) + [w_min <= w <= w_max] * bonus), w the words of the reasoning.

    A response without reasoning gets 0. The paper gives no value for the bonus.

    Attributes:
        mu: Centre of the bell, in words.
        sigma: Its width, in words.
        w_min: Fewest words that get the bonus.
        w_max: Most words that get the bonus.
        bonus: Added inside the window.
    """

    mu: float = 100.0
    sigma: float = 20.0
    w_min: int = 200
    w_max: int = 300
    bonus: float = 0.2

    def __call__(self, response: Response, sample: Sample, clip: Clip) -> float:
        """The reward of one response."""
        words = response.think_words
        if not words:
            return 0.0
        bell = math.exp(-((words - self.mu) ** 2) / (2 * self.sigma**2))
        return min(1.0, bell + self.bonus * (self.w_min <= words <= self.w_max))


@dataclass(frozen=True)
class ExtraReward:
    """A further reward.

    Attributes:
        function: A registered name, or the import path of a function `(response, sample, clip) -> float`.
        weight: Its weight in the sum.
    """

    function: str
    weight: float = 1.0


@dataclass(frozen=True)
class RewardOptions:
    """AVRT eq. 3: the total is the weighted sum; a weight of 0 switches a reward off.

    Attributes:
        format: Weight of the format reward.
        accuracy: Weight of the accuracy reward.
        length: Weight of the length reward.
        length_shape: The numbers of eq. 6.
        extra: Further rewards.
    """

    format: float = 1.0
    accuracy: float = 1.0
    length: float = 1.0
    length_shape: LengthReward = field(default_factory=LengthReward)
    extra: list[ExtraReward] = field(default_factory=list)


class RewardSum:
    """Score responses with every reward in use.

    Args:
        options: Weights and shapes.

    Attributes:
        rewards: Weight and function of each reward in use, by name.
        names: Their names, and `total`.

    Raises:
        AvrtError: If an extra reward cannot be found.
    """

    def __init__(self, options: RewardOptions) -> None:
        named: dict[str, tuple[float, Reward]] = {
            "format": (options.format, REGISTRY["format"]),
            "accuracy": (options.accuracy, REGISTRY["accuracy"]),
            "length": (options.length, options.length_shape),
        }
        for extra in options.extra:
            named[extra.function.rpartition(".")[2]] = (extra.weight, find_reward(extra.function))
        self.rewards = {name: pair for name, pair in named.items() if pair[0] != 0}
        self.names = (*self.rewards, "total")

    def __call__(self, text: str, sample: Sample, clip: Clip) -> dict[str, float]:
        """Each reward of one response, unweighted, and their weighted sum under `total`."""
        response = parse_response(text, sample.letters, several=sample.several)
        values = {name: function(response, sample, clip) for name, (_, function) in self.rewards.items()}
        values["total"] = sum(weight * values[name] for name, (weight, _) in self.rewards.items())
        return values


def find_reward(name: str) -> Reward:
    """A reward by registered name or import path.

    Raises:
        AvrtError: If there is none; the message says what was looked for.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        known = ", ".join(sorted(REGISTRY))
        raise AvrtError(
            "no such reward", where=name, remedy=f"use one of {known}, or package.module.function"
        ) from None
    if not callable(function) or isinstance(function, type):
        raise AvrtError("is not a function", where=name)
    try:
        inspect.signature(function).bind("response", "sample", "clip")
    except TypeError:
        raise AvrtError("does not take three arguments", where=name, remedy="define (response, sample, clip)") from None
    except ValueError:
        pass  # built in: it has no signature to look at
    reward: Reward = function
    return reward
