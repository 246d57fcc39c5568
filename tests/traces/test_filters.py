"""Votes, strategies and difficulty on hand-made verdicts."""

import pytest

from avrt.traces.filters import STRATEGIES, Verdict, difficulty, majority


def verdicts(visual, audio, *more):
    named = [Verdict("visual", tuple(visual), "A"), Verdict("audio", tuple(audio), "A")]
    return [*named, *(Verdict(f"extra{i}", tuple(votes), "A") for i, votes in enumerate(more))]


def test_majority_of_k_votes():
    assert majority(["A", "B", "A"]) == "A"
    assert majority(["A", None, None]) == "A"
    assert majority(["A", "B"]) is None
    assert majority([None]) is None
    assert majority([]) is None


@pytest.mark.parametrize(
    ("visual", "audio", "kept_by"),
    [
        ("A", "A", {"both_correct", "any_correct", "audio_only", "visual_only", "majority", "none"}),
        ("A", "B", {"any_correct", "visual_only", "none"}),
        ("B", "A", {"any_correct", "audio_only", "none"}),
        ("B", "C", {"none"}),
        ("AAA", "ABB", {"any_correct", "visual_only", "majority", "none"}),
    ],
)
def test_strategies(visual, audio, kept_by):
    found = {name for name, strategy in STRATEGIES.items() if strategy(verdicts(visual, audio)) is None}
    assert found == kept_by


def test_reasons_name_the_teacher():
    reason = STRATEGIES["both_correct"]
    assert reason(verdicts("B", "A")) == "visual wrong"
    assert reason(verdicts("B", "C")) == "visual and audio wrong"
    assert reason(verdicts("B", [None])) == "visual wrong, audio undecided"
    assert STRATEGIES["audio_only"]([Verdict("visual", ("A",), "A")]) == "no teacher of that name"


def test_a_third_teacher_counts_for_both_correct_and_for_difficulty():
    assert STRATEGIES["both_correct"](verdicts("A", "A", "B")) == "extra0 wrong"
    assert difficulty(verdicts("A", "A", "B")) == "medium"
    assert difficulty(verdicts("A", "A")) == "easy"
    assert difficulty(verdicts("B", [None])) == "hard"
