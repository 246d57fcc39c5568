"""Rules of other people's protocols: case by case, and against second implementations of what their scripts say."""

import random

import pytest

from avrt.evaluation.scorers import score
from tests.conftest import make_sample

FIVE = ("a dog", "a cat", "an owl", "Some bird", "a cow")


def read(rule, response, **fields):
    return score(rule, response, make_sample(choices=FIVE, **fields)).choice


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("<think>x</think><answer>B</answer>", "B"),
        ("<answer> (b). </answer>", "B"),
        ("<answer>B) </answer> and then <answer>C</answer>", None),  # from the first tag to the last: "Banswerthen..."
        ("<answer>B: a cat</answer>", None),
        ("<answer>B", None),
        ("B", None),
        ("<answer></answer>", None),
        ("<answer>Z</answer>", None),
        ("<answer>A,B</answer>", None),
    ],
)
def test_nemo_rl_takes_a_letter_between_tags_alone(response, letter):
    assert read("nemo_rl", response) == letter
    assert score("nemo_rl", response, make_sample(choices=FIVE)).correct == (letter == "B")


@pytest.mark.parametrize(("response", "right"), [("E, a", True), ("AE", True), ("a", False), ("A,B,E", False)])
def test_nemo_rl_wants_all_of_several_right_choices(response, right):
    sample = make_sample(choices=FIVE, several=True, answer=(0, 4), trace=None)
    # The gold answer is "A,E": letters and digits alone are compared, in order.
    expected = right and response != "E, a"
    assert score("nemo_rl", f"<answer>{response}</answer>", sample).correct == expected


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("It is (B) or (C)", "B"),  # it places bracketed letters by their bare form, which neither has
        ("I think A or B then", "B"),
        ("The answer is C. It is an owl", "C"),
        ("E", None),  # it knows A to D alone
        ("an owl", None),
        ("", None),
    ],
)
def test_lmms_eval_reads_mmau(response, letter):
    assert read("lmms_eval_mmau", response) == letter


def test_lmms_eval_counts_either_of_two_equal_options_of_mmau():
    sample = make_sample(choices=("Yes ", "no", "yes"), answer=2)
    assert score("lmms_eval_mmau", "A", sample).correct
    assert not score("lmms_eval_mmau", "B", sample).correct
    assert not score("lmms_eval_mmau", "A", make_sample(choices=("yes", "no"), answer=None)).correct


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("Because of it, (C)", "C"),  # the B of "Because" is a letter too, but not in brackets
        ("Clearly it is a dog, Bob", "B"),  # any capital: of B and C without brackets the first option's
        ("it must be some bird, i would say", "D"),  # by its text, as no capital is there
        ("some bird", None),  # too short for that
        ("nothing", None),
    ],
)
def test_lmms_eval_reads_worldsense(response, letter):
    assert read("lmms_eval_worldsense", response) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B. a cat", "B"),
        ("'B'", "B"),
        ("A or maybe it is B", "A"),  # what begins the answer counts most
        ("it must be C", "C"),
        ("The answer is B, but some Dog", "D"),  # behind the phrase the last first capital counts
        ("I say (B) or (C) here", "C"),
        ("maybe B: or D) here", "B"),  # a colon tells more than a bracket
        ("it is B or C here", "C"),
        ("so it is Big", "B"),
        ("Bird", "B"),
        ("no idea", None),
        ("E", None),
        ("", None),
    ],
)
def test_lmms_eval_reads_videomme(response, letter):
    assert read("lmms_eval_videomme", response) == letter


def by_rank(text: str) -> str | None:
    """Video-MME as lmms-eval's helper describes it: every candidate with a rank, then the best and last."""
    for mark in [*",.!?;:'", '"']:
        text = text.strip(mark)
    padded, found = f" {text} ", []
    for letter in "ABCD":
        for rank, form in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, f"{letter} "),
        ):
            if form in padded:
                found.append((rank, padded.rindex(form), letter))
        for phrase in ("the answer is", "answer is", "i choose", "the correct option is", "my choice is", "choice is"):
            start = padded.lower().find(phrase)
            if start >= 0 and letter in padded[start + len(phrase) :]:
                found.append((7, padded.index(letter, start + len(phrase)), letter))
        bare = padded.strip()
        if bare[:1] == letter and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare[-1:] == letter and not bare[-2:-1].isalpha():
            found.append((9, len(padded), letter))
    found = found or [(0, padded.rindex(letter), letter) for letter in "ABCD" if letter in padded]
    return max(found)[2] if found else None


def test_the_rule_of_videomme_agrees_with_a_second_implementation():
    rng = random.Random(5)
    parts = (
        "A", "B.", "(C)", "D)", "B:", "the answer is", "I choose", "My choice is", "the correct option is", "not",
        "Dog", "cat", ".", "'", "or",
    )  # fmt: skip
    read_letters = set()
    for _ in range(400):
        text = " ".join(rng.choices(parts, k=rng.randint(1, 6)))
        expected = by_rank(text.strip())
        read_letters.add(expected)
        assert read("lmms_eval_videomme", text) == expected, text
    assert read_letters == {*"ABCD", None}
