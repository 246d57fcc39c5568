"""Checks on merged traces: every reason can be provoked, and honest reasoning passes."""

import pytest

from avrt.traces.checks import CheckOptions, check_trace, find_leak

HONEST = (
    "In the first frames a man lifts a violin and a bow, and a bright bowed melody starts at the same moment. A piano "
    "would give struck notes, and none are heard, while no drum is seen anywhere. The bow moves with each change of "
    "the tune, so the sound must come from the violin in his hands, which leaves the second option."
)
LEAKS = [
    "The correct answer is given as B, so I will argue for it.",
    "Since the correct answer is B, the sound must be a violin.",
    "According to the provided answer, the sound is a violin.",
    "I was told that the answer is B.",
    "The ground truth says that it is a violin.",
    "As the answer key indicates, it is the second option.",
    "The prompt states that the right option is B.",
    "We already know the correct option is B.",
    "This matches the given answer.",
    "The audio analysis mentions a violin and the visual analysis agrees.",
    "Knowing that the right answer is B, I look for proof.",
    "Both analyses point to a violin.",
]
FINE = [
    "The correct choice becomes clear once the bow is seen.",
    "Given that the bow moves with the tune, the answer must be the violin.",
    "The frames provide clear evidence for the second option.",
    "The man is given a bow by a woman on the left.",
    "The narrator tells us that the answer lies in the woods, which is a line of the song.",
    "It is known that violins are bowed.",
    "The label on the box reads violin.",
]


def trace(think=HONEST, letter="B"):
    return f"<think>{think}</think><answer>{letter}</answer>"


def test_honest_reasoning_passes():
    assert check_trace(trace(), "ABCD", "B", CheckOptions()) is None


@pytest.mark.parametrize("leak", LEAKS)
def test_admitting_that_the_answer_was_known_is_caught(leak):
    assert check_trace(trace(f"{HONEST} {leak}"), "ABCD", "B", CheckOptions()).startswith("leak")
    assert check_trace(trace(f"{HONEST} {leak}"), "ABCD", "B", CheckOptions(leaks=False)) is None


@pytest.mark.parametrize("sentence", FINE)
def test_innocent_sentences_are_no_leaks(sentence):
    assert find_leak(sentence) is None


def test_leaks_over_line_breaks_and_in_other_languages():
    assert find_leak("the\ncorrect answer\nis given")
    assert find_leak("Die Antwort war vorgegeben.") is None
    assert find_leak("Die Antwort war vorgegeben.", ("antwort war vorgegeben",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (trace() + " That is all.", "format"),
        (HONEST, "format"),
        (trace(letter="b"), "format"),
        (trace(letter="C"), "letter"),
        (trace("Too short."), "length: below"),
        (trace("word " * 600), "length: above"),
        (trace("I'm sorry, but I cannot help with this clip. " + HONEST), "refusal"),
        (trace("As an AI I have no ears, so I cannot hear the clip at all."), "refusal"),
        (trace("the man plays the violin on a small stage " * 5), "repetition"),
    ],
)
def test_reasons(text, reason):
    assert check_trace(text, "ABCD", "B", CheckOptions()).startswith(reason)
