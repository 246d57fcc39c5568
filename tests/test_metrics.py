"""Answer metrics are exact counts."""

import pytest

from avrt.metrics import AnswerMetrics


def test_shares_overall_and_per_type():
    metrics = AnswerMetrics(["Where", "Which"])
    for kind, correct, formatted, parsed, reward in (
        ("Which", True, True, True, 3.0),
        ("Which", False, True, True, 1.5),
        ("Where", True, False, True, 1.0),
        ("unknown", False, False, False, 0.0),
    ):
        metrics.update(kind, correct=correct, well_formed=formatted, parsed=parsed, reward=reward)
    assert metrics.compute() == pytest.approx(
        {
            "accuracy": 0.5,
            "format": 0.5,
            "parsed": 0.75,
            "reward": 5.5 / 4,
            "questions": 4,
            "accuracy/Where": 1.0,
            "accuracy/Which": 0.5,
        }
    )
    metrics.reset()
    assert metrics.compute()["questions"] == 0


def test_without_rewards_none_is_reported():
    metrics = AnswerMetrics(with_reward=False)
    metrics.update(None, correct=True, well_formed=True, parsed=True)
    assert metrics.compute() == {"accuracy": 1.0, "format": 1.0, "parsed": 1.0, "questions": 1.0}
