"""Votes, strategies and difficulty on hand-made verdicts."""

import pytest

from avrt.traces.filters import STRATEGIES, TeacherVerdict, difficulty


def verdicts(visual, audio, *more):
    named = [TeacherVerdict("visual", tuple(visual), "A"), TeacherVerdict("audio", tuple(audio), "A")]
    return [*named, *(TeacherVerdict(f"extra{i}", tuple(votes), "A") for i, votes in enumerate(more))]


def test_a_teachers_letter_is_the_majority_of_its_votes():
    assert TeacherVerdict("audio", ("A", "B", "A"), "A").letter == "A"
    assert TeacherVerdict("audio", ("A", "B"), "A").letter is None


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
    assert STRATEGIES["audio_only"]([TeacherVerdict("visual", ("A",), "A")]) == "no teacher of that name"


def test_a_third_teacher_counts_for_both_correct_and_for_difficulty():
    assert STRATEGIES["both_correct"](verdicts("A", "A", "B")) == "extra0 wrong"
    assert difficulty(verdicts("A", "A", "B")) == "medium"
    assert difficulty(verdicts("A", "A")) == "easy"
    assert difficulty(verdicts("B", [None])) == "hard"


def test_one_right_teacher_is_medium_and_none_is_hard():
    assert difficulty(verdicts("A", "B")) == "medium"
    assert difficulty(verdicts("B", "A", "B", "B")) == "medium"
    assert difficulty([]) == "hard"


def test_cut_off_and_undecided_are_different_reasons():
    reason = STRATEGIES["both_correct"]

    def audio(*votes, cut):
        return [TeacherVerdict("visual", ("A",), "A"), TeacherVerdict("audio", votes, "A", cut)]

    assert reason(audio(None, cut=1)) == "audio cut off"
    assert reason(audio(None, None, cut=2)) == "audio cut off"
    assert reason(audio(None, None, cut=1)) == "audio undecided"
    assert reason(audio("A", "B", None, cut=1)) == "audio undecided"
    assert reason(audio("B", None, cut=1)) == "audio wrong"
    assert reason(audio("A", None, cut=1)) is None


def test_reasons_of_the_majority():
    assert STRATEGIES["majority"](verdicts("B", "B")) == "majority of all votes wrong"
    assert STRATEGIES["majority"](verdicts("A", "B")) == "no majority among all votes"
    assert STRATEGIES["majority"](verdicts([None], [None])) == "no majority among all votes"
    assert STRATEGIES["any_correct"](verdicts("B", "C")) == "no teacher right"
