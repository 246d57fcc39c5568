"""Options read from free text: what reasoning models write, with the letter that a patient person reads, or None."""

import json
import time
from pathlib import Path

import pytest

from avrt.choices import read_choice, read_choices, visible
from avrt.evaluation.scorers import score
from avrt.traces.analysis import read_analysis
from tests.conftest import make_sample

CHOICES = ("a dog", "a drum", "a car", "rain")
TEN = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
REPLIES = [
    # Marked in every way.
    ("(B)", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("(B) a drum", "B"),
    ("B: a drum", "B"),
    ("B - a drum", "B"),
    ("[B]", "B"),
    ("b", "B"),
    ("(b)", "B"),
    ("b) a drum", "B"),
    ("Option B", "B"),
    ("Choice (B)", "B"),
    ("**B**", "B"),
    ("***B***", "B"),
    ("__B__", "B"),
    ("`B`", "B"),
    ("> B", "B"),
    ("```\nB\n```", "B"),
    ("```text\nAnswer: B\n```", "B"),
    (r"\boxed{B}", "B"),
    (r"The answer is $\boxed{\text{B}}$.", "B"),
    (r"\boxed{(B)}", "B"),
    (r"\[\boxed{\mathbf{B}}\]", "B"),
    (r"\boxed{\text{(B) a drum}}", "B"),
    (r"\boxed{B} so \boxed{B}", "B"),
    (r"\boxed{A}, then \boxed{B}", None),
    ("\uff08B\uff09", "B"),
    ("\uff22", "B"),
    ("\u3010B\u3011", "B"),
    ("Answer\uff1aB\u3002", "B"),
    ('{"answer": "B"}', "B"),
    ('```json\n{"reasoning": "It booms.", "answer": "B"}\n```', "B"),
    ("<answer>B. a drum</answer>", "B"),
    ("<answer>**B**</answer>", "B"),
    ("<answer>a drum</answer>", "B"),
    ("<answer>A</answer><answer>B</answer>", None),
    ("<answer>A or B</answer>", None),
    ("<answer></answer>", None),
    ("Could be (A) or (C) at first.\n\nB", "B"),
    ("The answer is not (A); (B)", "B"),
    ("The answer is b) because it booms.", "B"),
    ("(A), (B) and C", None),
    ("The answer is not A; B. C is what the other video shows.", None),
    ("Not B, C or D", None),
    # Stated, in several languages.
    ("Answer: B", "B"),
    ("Answer (B)", "B"),
    ("**Answer:** (B) a drum", "B"),
    ("Final answer: **B**", "B"),
    ("## Final Answer\n\nB", "B"),
    ("The answer is (B).", "B"),
    ("The correct choice would be B", "B"),
    ("The answer must be a drum.", "B"),
    ("The sound is a dog barking, so the answer is a dog", "A"),
    ("It booms at a steady pace. Therefore it is a drum.", "B"),
    ("I think it is B because a dog would not boom.", "B"),
    ("I would go with option B.", "B"),
    ("My answer would be B, not A.", "B"),
    ("It's B", "B"),
    ("So, B.", "B"),
    ("B is correct.", "B"),
    ("Option B is the best match; A, C and D are wrong.", "B"),
    ("R\u00e9ponse : B", "B"),
    ("La bonne r\u00e9ponse est B.", "B"),
    ("Antwort: B", "B"),
    ("Die richtige Antwort ist B.", "B"),
    ("Respuesta: B", "B"),
    ("\u041e\u0442\u0432\u0435\u0442: B", "B"),
    ("\u041e\u0442\u0432\u0435\u0442: \u0412", None),  # Cyrillic: the second letter's look, the third one's place
    ("\u7b54\u6848\uff1aB", "B"),
    ("\u7b54\u6848\u662fB", "B"),
    ("\u6b63\u786e\u7b54\u6848\u4e3a (B)", "B"),
    ("\u6240\u4ee5\u7b54\u6848\u662f B\u3002", "B"),
    ("\u7b54\u3048: B", "B"),
    ("\uc815\ub2f5: B", "B"),
    # Weighed, denied, taken back.
    ("Answer: Not (A) a dog; it is (B) a drum", "B"),
    ("It is not a dog. It is a drum.", "B"),
    ("A... no wait, B", "B"),
    ("Answer: A. Actually, the answer is B.", "B"),
    ("(A) a dog: no bark. (C) a car: no engine. (D) rain: no drops.\nAnswer: (B) a drum", "B"),
    ("A and C are wrong, D is not heard. So it must be B.", "B"),
    ("Neither A nor C. The answer is B.", "B"),
    ("If the answer is A, there is a bark. There is none. The answer is B.", "B"),
    ("It was going to be A, but the answer is B.", "B"),
    ("Answer: (B) or (D), I cannot decide", None),
    ("Either B or D.", None),
    ("The answer is B or D", None),
    ("A and C", None),
    ("B/D", None),
    ("B, D", None),
    ("Answer: B & D", None),
    ("Both (A) and (B) are possible.", None),
    ("Not (A) a dog", None),
    ("The answer is not B.", None),
    ("It isn't a drum.", None),
    ("If the answer were B, there would be a beat.", None),
    ("Could it be B?", None),
    ("The answer is A. The answer is B.", None),
    ("(A) a drum", None),  # letter and text contradict each other
    ("The answer is (C) rain.", None),
    ("Answer: E", None),
    ("Answer: none of the above", None),
    ("I cannot decide.", None),
    ("I'm sorry, but I can't help with that.", None),
    ("A strange noise.", None),
    ("A dog barks.", "A"),  # by its text, not by its article
    ("The answer is a cat.", None),
    ("A man takes vitamin C.", None),
    ("Plan B", None),
    ("I am sure.", None),
    # Further wordings, and letters that belong to something else.
    ("The answer is most likely B.", "B"),
    ("The correct answer here is (B) a drum, because of the beat. (A) and (C) have none.", "B"),
    ("B\n\nA dog would bark.", "B"),
    ("The answer is B because of A", "B"),
    ("It could be A or B, but I lean towards B.", "B"),
    ("A is wrong. B is right. C is wrong. D is wrong.", "B"),
    ("A is the answer", "A"),
    ("Answer: <B>", "B"),
    ("B<|im_end|>", "B"),
    ("\u2192 B", "B"),
    ("Answer: ~~A~~ B", "B"),
    ("La respuesta correcta es la B.", "B"),
    ("\u6b63\u89e3\u306fB\u3067\u3059", "B"),
    ("\u7b54\u6848\u4e0d\u662fB", None),
    ("I don't think it's B.", None),
    ("B or maybe C", None),
    ("B, possibly C", None),
    ("Mr. B", None),
    ("The key is B flat.", None),
    ("I hear rain, so B", None),
    ("a drum (A)", None),
    ("(A)\n(B)", None),
    ("(A) a dog\n(B) a drum\n(C) a car\n(D) rain", None),
    ("Answer: 'B'", "B"),
    ("There is some rain, and a car. It is a drum.", "B"),
    ("Answer: rain, at first.\nAnswer: a fish", None),
    ("The answer is clear. I hear rain. Answer: a fish", None),
    ("I hear B and D", None),
    ("The answer is A cat.", None),
    ("A and B are wrong.", None),
    ("Not A, B", None),
    ("A is wrong", None),
    ("I wonder whether it is a drum.", None),
    ("I hear drumming.", None),
    ("I hear a bedrum.", None),
    ("", None),
    ("***", None),
    ("Answer:", None),
    ("It shows A because it booms", None),
    ("Not (A) is right.", None),
    ("Not B is correct", None),
    ("(Z) or (C)", None),
]


@pytest.mark.parametrize(("reply", "letter"), REPLIES)
def test_what_a_patient_person_reads(reply, letter):
    assert read_choice(reply, CHOICES) == letter
    assert read_analysis(reply, CHOICES).letter == letter
    assert score("lenient", reply, make_sample(choices=CHOICES, answer=1)).choice == letter


def test_thinking_is_not_read_for_the_answer():
    for opening, closing in (("<think>", "</think>"), ("\u25c1think\u25b7", "\u25c1/think\u25b7")):
        assert visible(f"{opening}The answer is A.{closing}Answer: B") == "Answer: B"
        assert visible(f"The answer is A.{closing}Answer: B") == "Answer: B"
        assert visible(f"{opening}The answer is A.") == ""
        for text, letter in ((f"{opening}Answer: A{closing}Answer: B", "B"), (f"{opening}Answer: A", None)):
            assert read_analysis(text, CHOICES).letter == letter
            assert score("lenient", text, make_sample(choices=CHOICES, answer=1)).choice == letter


@pytest.mark.parametrize(
    ("reply", "choices", "letter"),
    [
        ("It is the key of B.", ("the key of B", "the key of A"), "A"),  # the option's text, not the letter in it
        ("Answer: B", ("B", "C", "A"), None),  # a letter, or the option that is called so
        ("(B)", ("B", "C", "A"), "B"),
        ("(B) C", ("B", "C", "A"), "B"),
        ("(B) A", ("B", "C", "A"), None),
        ("3.5", ("2", "3", "12"), None),
        ("1.3", ("2", "3", "12"), None),
        ("12", ("2", "3", "12"), "C"),
        ("There are 3.", ("2", "3", "12"), "B"),
        ("A red car and a dog.", ("a red car", "a car", "a red car and a dog", "a dog"), "C"),
        ("the car", ("a red car", "a car", "a red car and a dog", "a dog"), "B"),
        ("both", ("a dog", "a drum", "both"), "C"),
        ("None of the above.", ("a dog", "a drum", "none of the above"), "C"),
        ("no", ("yes", "no"), "B"),
        ("No, there is none.", ("yes", "no"), "B"),
        ("STRASSE", ("Stra\u00dfe", "Stra\u00dfen"), None),
        ("C", ("a", "b"), None),
    ],
)
def test_options_that_look_like_each_other_or_like_letters(reply, choices, letter):
    assert read_choice(reply, choices) == letter


def test_long_repetition_is_read_in_bounded_time():
    for part in ("Answer: B. ", "it is ", "so ", "\n", "(B) ", "rain "):
        begun = time.perf_counter()
        read_choice(part * 1000, CHOICES)
        assert time.perf_counter() - begun < 10


@pytest.mark.parametrize(("reply", "letter"), [("Yes, there is no dog.", "A"), ("No. Yes would mean rain.", "B")])
def test_yes_and_no_at_the_beginning_are_what_is_answered(reply, letter):
    assert read_choice(reply, ("yes", "no")) == letter


def test_a_pronoun_is_no_choice_and_a_ninth_choice_is():
    assert read_choice("I am sure", TEN) is None
    assert read_choice("I", TEN) is None
    assert read_choice("The answer is I.", TEN) == "I"
    assert read_choice("(I) nine", TEN) == "I"
    assert read_choice("J", TEN) == "J"


@pytest.mark.parametrize(("held_out", "precision", "recall"), [(False, 0.98, 0.98), (True, 0.98, 0.98)])
def test_precision_and_recall_of_the_lenient_scorer(held_out, precision, recall):
    lines = (Path(__file__).parent / "evaluation" / "lenient_answers.jsonl").read_text("utf-8").split("\n")
    rows = [row for row in map(json.loads, filter(None, lines)) if row["held_out"] is held_out]
    assert len(rows) == 75
    pairs = [
        (row["letter"], score("lenient", row["answer"], make_sample(choices=tuple(row["choices"]), answer=0)).choice)
        for row in rows
    ]
    right = sum(read == meant for meant, read in pairs if read is not None)
    assert right / sum(read is not None for _, read in pairs) >= precision
    assert right / sum(meant is not None for meant, _ in pairs) >= recall


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is B.", None),
        ("B is right.", None),
        ("B", None),
        ("Option B", "B"),
        ("Choice B.", "B"),
        ("(B)", "B"),
    ],
)
def test_a_bare_letter_that_is_also_another_option_decides_nothing(reply, letter):
    assert read_choice(reply, ("C", "D", "A", "B")) == letter


MOODS = ("Questioning", "Helpless", "Curiosity", "Sentimentality", "Angry", "Friendly")


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("<answer>B,E</answer>", "B,E"), ("B, E", "B,E"), ("BE", "B,E"), ("B and E", "B,E"), ("E,B", "B,E"),
        ("b, e", "B,E"),
        ("(B) and (E)", "B,E"), ("[B, E]", "B,E"), ("B. Helpless, E. Angry", "B,E"),
        ("- B. Helpless\n- E. Angry", "B,E"),
        ("Answer: B, E", "B,E"), ("**Answer:** (B), (E)", "B,E"), ("Answer: B\nE", "B,E"), ("\\boxed{B, E}", "B,E"),
        ("The answer is B and E.", "B,E"), ("The correct letters are: B & E", "B,E"), ("B", "B"),
        ("A, B, and E", "A,B,E"),
        ("The right ones are Helpless and Angry.", "B,E"), ("Helpless, Angry", "B,E"), ("Angry", "E"),
        ("The man is helpless and angry, but not friendly.", "B,E"), ("I think B and E, not C", "B,E"),
        ("Both A and C are possible, but I choose C and E.", "C,E"), ("B, E. So these are the moods.", "B,E"),
        ("Answer: none of them", None), ("A is shown. Therefore B and E.", "B,E"),
        ("both B and E apply; C is wrong", "B,E"), ("A man is seen. Answer: B, E because C does not fit", "B,E"),
        ("<answer>B, E</answer><answer>E,B</answer>", "B,E"), ("Options B, E and F are correct.", "B,E,F"),
        ("<answer>B</answer><answer>E</answer>", None), ("B, G", None), ("Neither", None), ("", None),
        ("I do not know", None),
    ],
)  # fmt: skip
def test_all_options_that_a_reply_chooses(reply, letters):
    assert read_choices(reply, MOODS) == letters
