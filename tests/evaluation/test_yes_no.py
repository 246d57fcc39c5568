"""Figures of yes/no questions against a second implementation, and by hand."""

import random

import pytest

from avrt.evaluation.predictions import Prediction
from avrt.evaluation.scorers import score
from avrt.evaluation.yes_no import yes_no_figures
from tests.conftest import make_sample

TASKS = ("Video-driven Audio Hallucination", "Audio-driven Video Hallucination", "AV Matching")


def asked(task, label, *responses, choices=("Yes", "No")):
    answer = [c.lower() for c in choices].index(label)
    sample = make_sample(choices=choices, answer=answer, trace=None, question_type=task)
    return Prediction.from_sample(sample, 0, responses=responses, finished=(True,) * len(responses))


def result_fields(predictions, scorer="avhbench"):
    judged = [[score(scorer, r, p.sample()) for r in p.responses] for p in predictions]
    return yes_no_figures(predictions, judged)


def second_implementation(pairs):
    """The confusion counts of the benchmark's readers, by task: what counts as Yes is written out."""
    table = {}
    for task, label, reply in pairs:
        words = "".join(c if c.isalnum() else " " for c in reply.lower()).split()
        first = next((word for word in words if word in ("yes", "no")), "?")
        first = {"A": "yes", "(B)": "no"}.get(reply, first)
        for group in (task, "all"):
            counts = table.setdefault(group, {})
            counts[label, first] = counts.get((label, first), 0) + 1
    found = {}
    for group, counts in table.items():
        tp, fp = counts.get(("yes", "yes"), 0), counts.get(("no", "yes"), 0)
        tn = counts.get(("no", "no"), 0)
        fn = counts.get(("yes", "no"), 0) + counts.get(("yes", "?"), 0)
        total = sum(counts.values())
        precision = tp / (tp + fp) if tp + fp else 0
        recall = tp / (tp + fn) if tp + fn else 0
        f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0
        found[group] = ((tp + tn) / total, precision, recall, f1, (tp + fp) / total)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_against_a_second_implementation(seed):
    rng = random.Random(seed)
    replies = [
        "Yes", "No", "yes.", "NO!", "Yes, the man is audible.", "No, there is none", "I think yes", "It is not", "A",
        "(B)",
        "", "Maybe", "There is nobody", "The answer is no, not yes", "<think>Yes</think><answer>No</answer>",
    ]  # fmt: skip
    pairs = [(rng.choice(TASKS), rng.choice(("yes", "no")), rng.choice(replies)) for _ in range(300)]
    found = result_fields([asked(*pair) for pair in pairs])
    plain = [(t, label, "No" if reply.startswith("<think>") else reply) for t, label, reply in pairs]
    expected = second_implementation(plain)
    assert set(found) == set(expected) == {*TASKS, "all"}
    for group, values in expected.items():
        names = ("accuracy", "precision", "recall", "f1", "yes")
        assert [found[group][name] for name in names] == pytest.approx(values), group
    assert found["all"]["answers"] == 300
    assert list(found) == ["all", *sorted(TASKS)]


def test_by_hand():
    # 3 of 4 Yeses are right; one Yes is missed, one answer cannot be read
    predictions = [asked("t", "yes", "Yes")] * 3 + [
        asked("t", "no", "Yes"), asked("t", "yes", "No"), asked("t", "no", "No"), asked("t", "no", "perhaps"),
        asked("t", "yes"),
    ]  # fmt: skip
    found = result_fields(predictions)["t"]
    assert found == {
        "accuracy": 4 / 8, "precision": 3 / 4, "recall": 3 / 5, "f1": pytest.approx(2 / 3), "yes": 4 / 8, "unread": 2,
        "answers": 8,
    }  # fmt: skip


def test_the_order_of_the_choices_does_not_matter_and_each_answer_counts():
    turned = asked(None, "yes", "Yes", "B", "No", choices=("No", "Yes"))
    found = result_fields([turned])
    assert list(found) == ["all"]
    assert (found["all"]["recall"], found["all"]["precision"], found["all"]["answers"]) == (2 / 3, 1.0, 3)


def test_nobody_says_yes():
    found = result_fields([asked("t", "yes", "No"), asked("t", "no", "No")])["all"]
    assert (found["precision"], found["recall"], found["f1"], found["yes"], found["accuracy"]) == (0, 0, 0, 0, 0.5)


def test_other_questions_have_no_such_figures():
    other = Prediction.from_sample(make_sample(), 0, responses=("B",), finished=(True,))
    assert result_fields([]) == {}
    assert result_fields([asked("t", "yes", "Yes"), other]) == {}
