"""Scorers: MMAR's rule against a second implementation of its text, the others case by case."""

import random
import re

import pytest

from avrt.errors import AvrtError
from avrt.evaluation.scorers import score
from tests.conftest import make_sample

WORDS = ["red", "car", "a", "dog", "two", "dogs", "street", "City", "open", "loud", "12", "piano"]


def mmar_by_its_text(answer: str, choices: list[str], prediction: str) -> bool:
    """Every token of the right choice is in the prediction, and none that occurs only in wrong choices is."""

    def tokens(text):
        return [m.group().lower() for m in re.finditer(r"\b\w+\b", text)]

    said = tokens(prediction)
    if not said:
        return False
    for token in tokens(answer):
        if token not in said:
            return False
    for choice in choices:
        if choice == answer:
            continue
        for token in tokens(choice):
            if token not in tokens(answer) and token in said:
                return False
    return True


def test_mmar_agrees_with_an_independent_implementation_on_many_kinds_of_predictions():
    rng = random.Random(3)
    seen = {True: 0, False: 0}
    sizes = set()
    for _ in range(600):
        size = rng.randint(2, 6)
        choices = []
        while len(choices) < size:
            choice = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
            if choice not in choices:
                choices.append(choice)
        answer = rng.randrange(size)
        right, wrong = choices[answer], choices[(answer + 1) % size]
        prediction = rng.choice(
            [right, wrong, right.upper() + "!", f"It is the {right}.", f"{right} and not {wrong}", "", "???",
             " ".join(rng.sample(WORDS, 4)), right + "s", right.split()[0], f"The answer: {right}, of course"]
        )  # fmt: skip
        sample = make_sample(choices=tuple(choices), answer=answer)
        expected = mmar_by_its_text(right, choices, prediction)
        assert score("mmar", prediction, sample).correct == expected, (choices, right, prediction)
        seen[expected] += 1
        sizes.add(size)
    assert min(seen.values()) > 100
    assert sizes == {2, 3, 4, 5, 6}


def test_mmar_reads_our_letters_as_the_choices_they_stand_for():
    sample = make_sample(choices=("a dog", "a red car"), answer=1)
    assert score("mmar", "<think>It barks.</think><answer>B</answer>", sample).correct
    assert not score("mmar", "<think>It barks.</think><answer>A</answer>", sample).correct


SAMPLE = make_sample(choices=("a ball", "a box", "a star", "two dogs"), answer=1)


@pytest.mark.parametrize(
    ("response", "readings"),
    [
        ("<think>x</think><answer>B</answer>", {"strict": "B", "lenient": "B", "omnibench": "B", "dailyomni": "B"}),
        ("B", {"strict": None, "lenient": "B", "omnibench": "B", "dailyomni": "B"}),
        ("b", {"strict": None, "lenient": "B", "omnibench": None, "dailyomni": "B"}),
        ("The answer is (B) a box", {"strict": None, "lenient": "B", "omnibench": "B", "dailyomni": None}),
        ("(A) or rather (B)", {"strict": None, "lenient": "B", "omnibench": "B", "lmms_eval_omnibench": "B"}),
        (
            "It must be a box, I am quite sure",
            {"strict": None, "lenient": "B", "omnibench": "B", "lmms_eval_omnibench": None},
        ),
        ("A dog? No: B.", {"strict": None, "lenient": "B", "omnibench": "A", "dailyomni": "A"}),
        ("<answer>A</answer><answer>B</answer>", {"strict": None, "lenient": None, "omnibench": "B"}),
        ("I cannot tell", {"strict": None, "lenient": None, "omnibench": None, "dailyomni": None, "mmar": None}),
        (
            "",
            {
                "strict": None,
                "lenient": None,
                "omnibench": None,
                "dailyomni": None,
                "mmar": None,
                "lmms_eval_mmar": None,
            },
        ),
    ],
)
def test_what_each_rule_reads(response, readings):
    for name, expected in readings.items():
        verdict = score(name, response, SAMPLE)
        assert verdict.choice == expected, name
        assert verdict.correct == (expected == "B"), name


def test_an_unreadable_answer_is_wrong_every_time_and_not_a_draw():
    assert not any(score("omnibench", "no idea at all", SAMPLE).correct for _ in range(50))


def test_an_unknown_scorer_is_named():
    with pytest.raises(AvrtError, match="one of strict"):
        score("nonsense", "B", SAMPLE)


@pytest.mark.parametrize(
    ("scorer", "response", "choice"),
    [
        # What states the answer: the last tag, on several lines or left open, else what follows the thinking.
        ("dailyomni", "<answer>\nB\n</answer>", "B"),
        ("dailyomni", "<think>A</think><answer>B", "B"),
        ("dailyomni", "<answer>A</answer> so <answer>\nB</answer>", "B"),
        ("dailyomni", "<think>A</think>\nB", "B"),
        ("dailyomni", "E", None),
        # An option's text counts from six words on, and the last place that names one.
        ("omnibench", "I think it's a box", None),
        ("omnibench", "I do think it's a box", "B"),
        ("omnibench", "it was a box, then a star, then a box again", "B"),
        ("omnibench", "it was a box, then a box, then a star again", "C"),
        ("lmms_eval_omnibench", "it was a box, then a star, then a box again", None),
        ("lmms_eval_mmar", "it was a box, then a star, then a box again", "B"),
        # Letters: brackets before blanks before full stops; of several the last that stands between blanks.
        ("omnibench", "C or (B)", "B"),
        ("omnibench", "(C) or (B)", "B"),
        ("omnibench", "(B) or (C) or (B)", "B"),
        ("omnibench", "A xB x", "A"),
        ("omnibench", "A then B then", "B"),
        ("omnibench", "Well B. But C.", "B"),
        ("lmms_eval_mmar", "'B.'", "B"),
        ("lmms_eval_mmar", "!B?", "B"),
        ("omnibench", "!B?", None),
    ],
)
def test_the_official_rules_at_their_edges(scorer, response, choice):
    assert score(scorer, response, SAMPLE).choice == choice


def test_mmar_reads_a_bare_letter_only_if_a_choice_goes_by_it():
    assert score("mmar", "(B).", SAMPLE).choice == "B"
    assert score("mmar", "E", SAMPLE).choice is None
    assert score("mmar", "star", make_sample(choices=("a star", "star"), answer=1)).correct


def test_the_lenient_reading_of_untrained_models():
    sample = make_sample(choices=("a cat", "a dog", "a drum", "rain"), answer=1)
    for answer in ("The answer is a dog.", "I choose option a dog", "The answer is **B**.", "\uff08B\uff09"):
        assert score("lenient", answer, sample) == score("lenient", "B", sample)
        assert score("lenient", answer, sample).correct
    assert score("lenient", "I think it is B because a cat would not bark.", sample).choice == "B"
    # A dot in an option's text is a dot.
    assert score("lenient", "2x5", make_sample(choices=("2.5", "3.5"), answer=0)).choice is None
