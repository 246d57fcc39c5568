"""Checks of merged traces: every reason occurs, and good reasoning passes."""

import pytest

from avrt.traces.checks import LEAKS, CheckOptions, check_trace, find_leak

HONEST = (
    "In the first frames a man lifts a violin and a bow, and a bright bowed melody starts at the same moment. A piano "
    "would give struck notes, and none are heard, while no drum is seen anywhere. The bow moves with each change of "
    "the tune, so the sound must come from the violin in his hands, which leaves the second option."
)
LEAKING = [
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


@pytest.mark.parametrize("leak", LEAKING)
def test_admitting_that_the_answer_was_known_is_caught(leak):
    assert check_trace(trace(f"{HONEST} {leak}"), "ABCD", "B", CheckOptions()).startswith("leak")
    assert check_trace(trace(f"{HONEST} {leak}"), "ABCD", "B", CheckOptions(leaks=False)) is None


@pytest.mark.parametrize("sentence", FINE)
def test_sentences_that_are_not_leaks(sentence):
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


def said(*words):
    """A trace with exactly these words of reasoning."""
    return trace(" ".join(words))


@pytest.mark.parametrize(
    ("count", "reason"), [(9, "below"), (10, None), (11, None), (19, None), (20, None), (21, "above")]
)
def test_the_bounds_of_the_length_are_inclusive(count, reason):
    words = [f"w{i}" for i in range(count)]
    told = check_trace(said(*words), "ABCD", "B", CheckOptions(min_words=10, max_words=20))
    assert told == (None if reason is None else f"length: {reason} the bounds")


def test_default_bounds_are_ten_and_five_hundred_words():
    words = [f"w{i}" for i in range(501)]
    told = [check_trace(said(*words[:n]), "ABCD", "B", CheckOptions()) for n in (9, 10, 500, 501)]
    assert told == ["length: below the bounds", None, None, "length: above the bounds"]


@pytest.mark.parametrize(
    ("times", "allowed", "fine"), [(2, 2, True), (3, 2, False), (3, 3, True), (1, 1, True), (2, 1, False)]
)
def test_eight_words_in_a_row_may_occur_as_often_as_allowed(times, allowed, fine):
    run = [f"r{i}" for i in range(8)]
    words = [word for i in range(times) for word in (*run, f"between{i}")]
    told = check_trace(said(*words, "and", "so", "on"), "ABCD", "B", CheckOptions(repeats=allowed))
    assert told == (None if fine else "repetition")


def test_seven_words_in_a_row_may_repeat_and_the_last_eight_count():
    seven = [f"r{i}" for i in range(7)]
    words = [word for i in range(6) for word in (*seven, f"between{i}")]
    assert check_trace(said(*words), "ABCD", "B", CheckOptions()) is None
    eight = [f"r{i}" for i in range(8)]
    ending = [word for i in range(3) for word in (f"before{i}", *eight)]  # the third is where the reasoning ends
    assert check_trace(said(*ending), "ABCD", "B", CheckOptions()) == "repetition"


def test_repetition_ignores_case():
    run = ["the", "bow", "moves", "over", "the", "strings", "once", "more"]
    words = [*run, "x", *(word.upper() for word in run), "y", *(word.title() for word in run)]
    assert check_trace(said(*words), "ABCD", "B", CheckOptions()) == "repetition"


@pytest.mark.parametrize(
    "sentence",
    [
        "I'm sorry, there is too little to go by.",
        "I am sorry, there is too little to go by.",
        "I am unable to tell.",
        "I'm not able to tell.",
        "I can't see the clip.",
        "I can\N{RIGHT SINGLE QUOTATION MARK}t see the clip.",
        "I cannot\nsee the clip.",
        "I cannot hear anything of it.",
        "I can not determine what it is.",
        "i cannot assist with that.",
        "As an AI, there is little to say.",
        "As a language model, there is little to say.",
        "As a text-based system, there is little to say.",
        "I don't have access to the sound.",
        "I do not have the ability to listen.",
    ],
)
def test_refusals(sentence):
    assert check_trace(trace(f"{HONEST} {sentence}"), "ABCD", "B", CheckOptions()) == "refusal"
    assert check_trace(trace(f"{HONEST} {sentence}"), "ABCD", "B", CheckOptions(refusals=False)) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "I can hear it.",
        "The man cannot see the drum.",
        "He says that he is sorry.",
        "As an aim of the scene, it works.",
    ],
)
def test_sentences_that_are_not_refusals(sentence):
    assert check_trace(trace(f"{HONEST} {sentence}"), "ABCD", "B", CheckOptions()) is None


# One sentence for each rule, which no other rule catches.
EACH = [
    "It is the ground truth.",
    "It is the ground-truth after all.",
    "Look at the solution key.",
    "Take the given option.",
    "Take this stated correct choice.",
    "The right choice has been provided.",
    "The final answer was already given.",
    "Use the expected answer supplied.",
    "We were told.",
    "I have been given more.",
    "I know that the correct option is a violin.",
    "We already know the answer must be a violin.",
    "Because the correct choice is a violin, no other fits.",
    "Given that the right one must be a violin, no other fits.",
    "Based on the correct label, it is a violin.",
    "That agrees with the reference solution.",
    "The instructions say that it is the second option.",
    "The user gave me the answer.",
    "The audio expert hears a violin.",
    "The other teacher's view is the same.",
    "The two analyses agree.",
    "The provided analyses agree.",
]


@pytest.mark.parametrize("sentence", EACH)
def test_sentences_that_are_leaks(sentence):
    matching = [pattern.pattern for pattern in LEAKS if pattern.search(sentence)]
    assert matching, sentence
    assert find_leak(sentence)


def test_each_rule_on_leaks_is_needed():
    alone = set()
    for sentence in [*EACH, *LEAKING]:
        matching = [i for i, pattern in enumerate(LEAKS) if pattern.search(sentence)]
        if len(matching) == 1:
            alone.add(matching[0])
    assert alone == set(range(len(LEAKS)))


def test_extra_leaks_are_part_of_the_check_and_ignore_case():
    options = CheckOptions(extra_leaks=("zauber(wort)?", "nie da"))
    assert check_trace(trace(f"{HONEST} ZAUBERWORT"), "ABCD", "B", options).startswith("leak")
    assert check_trace(trace(HONEST), "ABCD", "B", options) is None
    assert find_leak("antwort\n war  vorgegeben", ("antwort war vorgegeben",))
    assert find_leak("the prompt says one thing,\nand then the answer")
    assert find_leak("we\N{RIGHT SINGLE QUOTATION MARK}ve been told") is None
    assert find_leak("the audio expert\N{RIGHT SINGLE QUOTATION MARK}s view") == "audio expert's"
    assert find_leak("a Zauber b", ("x", "zauber")) == "Zauber"


def test_the_order_of_the_reasons():
    assert check_trace(trace("Short.", "C"), "ABCD", "B", CheckOptions()).startswith("letter")
    assert check_trace(trace("Short ground truth."), "ABCD", "B", CheckOptions()).startswith("length")
    both = f"{HONEST} It is the ground truth. I'm sorry."
    assert check_trace(trace(both), "ABCD", "B", CheckOptions()).startswith("leak")


def test_the_letter_has_to_be_one_of_the_questions():
    assert check_trace(trace(letter="B"), "AB", "B", CheckOptions()) is None
    assert check_trace(trace(letter="D"), "ABC", "D", CheckOptions()).startswith("format")


def test_the_same_eight_words_may_occur_twice_by_default_and_not_three_times():
    run = "the bow moves with each change of tune"
    assert check_trace(trace(f"{run} and then {run} once more"), "ABCD", "B", CheckOptions()) is None
    thrice = f"{run} and then {run} once more and {run} again"
    assert check_trace(trace(thrice), "ABCD", "B", CheckOptions()) == "repetition"


def test_reasoning_of_less_than_eight_words_does_not_repeat():
    assert check_trace(trace("a bow is seen"), "ABCD", "B", CheckOptions(min_words=1)) is None


def test_a_trace_for_several_letters_names_all_of_them():
    for letters in ("A,C", "C, A", "A and C"):
        assert check_trace(trace(letter=letters), "ABCD", "A,C", CheckOptions(), several=True) is None
    assert check_trace(trace(letter="A"), "ABCD", "A,C", CheckOptions(), several=True).startswith("letter")
    assert check_trace(trace(letter="A,C,D"), "ABCD", "A,C", CheckOptions(), several=True).startswith("letter")
    assert check_trace(trace(letter="A or C"), "ABCD", "A,C", CheckOptions(), several=True).startswith("format")
    assert check_trace(trace(letter="A,C"), "ABCD", "A", CheckOptions()).startswith("format")
