"""Official rules of the benchmarks against second implementations, written from the scripts' logic in another way.

Each pair is a question and a reply; replies are generated in the shapes that models give, and in odd ones.
"""

import random

import pytest

from avrt.evaluation.predictions import Prediction
from avrt.evaluation.result import mean_credits
from avrt.evaluation.scorers import score
from tests.conftest import make_sample

PAIRS = 400
WORDS = ["red", "car", "a", "dog", "two", "Dogs", "street", "open", "loud", "12", "piano", "Boat", "an", "ice"]


def choices_of(rng, size):
    found = []
    while len(found) < size:
        choice = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
        if choice not in found:
            found.append(choice)
    return tuple(found)


def replies_to(rng, choices, answer):
    """A reply that is right, wrong, or neither, in one of many shapes."""
    index = rng.choice([answer, rng.randrange(len(choices))])
    letter, text = "ABCDEFGH"[index], choices[index]
    return rng.choice([
        letter, letter.lower(), f"{letter}.", f"({letter})", f"{letter}. {text}", f" {letter}\n",
        f"{letter}) {text}", text,
        text.upper(), f"The answer is {letter}", f"The best answer is {letter}.", f"Answer: {letter}",
        f"Option: ({letter})",
        f"The best option is {letter}", f"Best answer: {letter}", f"Best option: {letter}",
        f"The correct answer is: {letter}",
        f"Because a dog is seen, it is {letter}", f"I hear {text}, so {letter}.", f"\\boxed{{{letter}}}",
        f"/box{{{letter}}}",
        f"It is the {text}!", "", "E", "I do not know",
        "no idea what this long reply is about since it names nothing at all",
        f"Definitely {letter}, and not D", f"{letter}!", f"**{letter}**", f"\"{letter}.\"", "1", ". A", "A.B", "?",
    ])  # fmt: skip


def generated(seed, size=4, count=PAIRS):
    rng = random.Random(seed)
    for _ in range(count):
        choices = choices_of(rng, size if size else rng.randint(2, 6))
        answer = rng.randrange(len(choices))
        yield make_sample(choices=choices, answer=answer, trace=None), replies_to(rng, choices, answer)


def compare(scorer, pairs, second):
    """Both implementations on every pair; how often it is right and wrong."""
    seen = {True: 0, False: 0}
    for sample, reply in pairs:
        expected = second(sample, reply)
        assert score(scorer, reply, sample).correct == expected, (sample.choices, sample.answer_letter, reply)
        seen[expected] += 1
    assert sum(seen.values()) >= 200
    assert min(seen.values()) > 40, seen
    return seen


def mmau_second(sample, reply):
    """Word sets: the right choice's words are all said, and none that only wrong choices have."""

    def words(text):
        out, word = set(), ""
        for character in f"{text.lower()} ":
            if character.isalnum() or character == "_":
                word += character
            else:
                out, word = out | ({word} if word else set()), ""
        return out

    # our students answer by letters, which the script does not know: a bare letter stands for its text
    bare = reply.strip().strip("().: ")
    if len(bare) == 1 and bare in "ABCDEFGH"[: len(sample.choices)]:
        reply = sample.choices["ABCDEFGH".index(bare)]
    said, right = words(reply), words(sample.choices[sample.answer])
    wrong = set()
    for choice in sample.choices:
        if words(choice) != right:
            wrong |= words(choice) - right
    return bool(said) and not (right - said) and not (said & wrong)


def test_mmau():
    compare("mmau", generated(1, size=0), mmau_second)
    # a choice that is there twice in other capitals does not make the right one wrong
    twice = make_sample(choices=("a dog", "A Dog", "cat"), answer=0, trace=None)
    assert mmau_second(twice, "a dog")
    assert score("mmau", "a dog", twice).correct


def first_of_abcd(reply, removed):
    text = reply.strip()
    for phrase in removed:
        text = "".join(text.split(phrase))
    for character in text:
        if character in "ABCD":
            return character
    return ""


VIDEOMME_REMOVED = [
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option is" + "The correct option is", "Best answer:" + "Best option:",
]  # fmt: skip


def test_videomme():
    compare("videomme", generated(2), lambda s, r: first_of_abcd(r, VIDEOMME_REMOVED) == s.answer_letter)
    sample = make_sample(choices=("x", "y", "z", "w"), answer=1, trace=None)
    # the list of phrases lacks two commas: these are not taken out, and the B of "Best" is read
    assert score("videomme", "Best answer: A", sample).choice == "B"
    assert score("videomme", "The answer is nothing", sample).choice is None


def test_worldsense():
    removed = [*VIDEOMME_REMOVED, "Answer:", "Option:"]
    compare("worldsense", generated(3), lambda s, r: first_of_abcd(r, removed) == s.answer_letter)
    sample = make_sample(choices=("x", "y", "z"), answer=1, trace=None)
    assert score("worldsense", "Answer: B", sample).correct
    assert score("videomme", "Answer: B", sample).choice == "A"  # that of "Answer"
    assert score("worldsense", "D", sample).choice is None  # no such choice


def omnivideobench_second(sample, reply):
    """Both sides made bare: lower case, without a box, what stands before a full stop at the second place, no marks."""

    def unboxed(text):
        for opening in ("/box{", "\\boxed{"):
            if opening in text and "}" in text.split(opening, 1)[1]:
                inside = text.split(opening, 1)[1].split("}", 1)[0]
                text = inside.strip() if inside else text
        return text

    def bare(text):
        text = text.lower()
        if len(text) > 1 and text[1] == ".":
            text = text[0]
        marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
        return " ".join("".join(c for c in text if c not in marks).split())

    return bare(unboxed(reply.strip())) == bare(sample.answer_letter)


def test_omnivideobench():
    compare("omnivideobench", generated(4), omnivideobench_second)


def intentbench_second(sample, reply):
    """The script's credit for one reply: exact letter, F1 of what stands between commas, or the word within."""
    start, end = reply.find("<answer>"), reply.find("</answer>")
    text = reply[start + 8 : end].strip() if 0 <= start < end else ""
    text = text or reply.strip()
    gold = sample.answer_letter if sample.question_type != "judge" else sample.choices[sample.answer]
    if sample.question_type == "multiple choice":
        return float(text == gold)
    if sample.question_type == "judge":
        return float(any(word in gold.lower() and word in text.lower() for word in ("yes", "no")))
    given, right = text.split(","), gold.split(",")
    both = len({*given} & {*right})
    if both == 0:
        return 0.0
    return 2 * both / len(given) * both / len(right) / (both / len(given) + both / len(right))


def intentbench_pairs(seed):
    rng = random.Random(seed)
    moods = tuple(f"mood {i}" for i in range(6))
    for number in range(3 * PAIRS):
        if number % 3 == 0:
            choices = choices_of(rng, 4)
            answer = rng.randrange(4)
            sample = make_sample(choices=choices, answer=answer, trace=None, question_type="multiple choice")
            letter = rng.choice("ABCD"[answer] * 2 + "ABCDE")
            text = rng.choice([letter, f" {letter} ", f"{letter}.", letter.lower(), "", f"{letter}, {letter}", letter])
        elif number % 3 == 1:
            right = tuple(sorted(rng.sample(range(6), rng.randint(1, 6))))
            sample = make_sample(choices=moods, answer=right, several=True, trace=None, question_type="emer_ov_mc")
            given = rng.sample("ABCDEF", rng.randint(1, 6))
            given = rng.choice([given, ["ABCDEF"[i] for i in right], ["ABCDEF"[i] for i in right][:2]])
            text = rng.choice([",", ",", ", ", " and ", ""]).join(given) + rng.choice(["", "", f",{given[0]}", ",G"])
        else:
            sample = make_sample(choices=("Yes", "No"), answer=rng.randrange(2), trace=None, question_type="judge")
            text = rng.choice(["Yes", "No", "yes.", "NO", "I know: yes", "not sure", "perhaps", "Yes, he is", "", "?"])
        wrap = rng.choice(["<answer>{}</answer>", "<think>x</think><answer>{}</answer>", "<answer> {} </answer>", "{}"])
        yield sample, wrap.format(text)


def test_intentbench_gives_parts_of_a_point():
    kinds = {"multiple choice": [], "emer_ov_mc": [], "judge": []}
    for sample, reply in intentbench_pairs(5):
        expected = intentbench_second(sample, reply)
        verdict = score("intentbench", reply, sample)
        assert verdict.credit == pytest.approx(expected), (sample.question_type, sample.answer_letter, reply)
        assert verdict.correct == (expected == 1.0), (sample.answer_letter, reply)
        kinds[sample.question_type].append(verdict.credit)
    assert all(len(credits) >= 200 for credits in kinds.values())
    assert all(min(credits.count(0.0), credits.count(1.0)) > 40 for credits in kinds.values())
    assert sum(0 < credit < 1 for credit in kinds["emer_ov_mc"]) > 100


def test_a_blank_answer_before_the_real_one_is_passed_over():
    sample = make_sample(choices=("w", "x", "y"), answer=1, trace=None)
    assert score("intentbench", "<answer> </answer> so <answer>B</answer>", sample).correct


def test_parts_of_a_point_make_the_mean():
    sample = make_sample(
        choices=("w", "x", "y", "z"), answer=(0, 1), several=True, trace=None, question_type="emer_ov_mc"
    )
    replies = ["<answer>A,B</answer>", "<answer>A</answer>", "<answer>C</answer>"]
    predictions = [Prediction.from_sample(sample, i, responses=(r,), finished=(True,)) for i, r in enumerate(replies)]
    assert mean_credits(predictions, "intentbench") == pytest.approx([1, 2 / 3, 0])
    assert mean_credits(predictions, "strict") == [1, 0, 0]


def test_a_space_after_a_comma_makes_another_letter_for_intentbenchs_script_alone():
    sample = make_sample(choices=("w", "x", "y"), answer=(0, 2), several=True, trace=None)
    reply = "<think>x</think><answer>A, C</answer>"
    assert score("strict", reply, sample).correct
    assert score("intentbench", reply, sample).credit == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("<think>x</think><answer>A,C</answer>", "A,C", "A,C"), ("<answer>C and A</answer>", "A,C", "A,C"),
        ("Answer: A, C", None, "A,C"), ("The man is w and y", None, "A,C"), ("A", None, "A"), ("nothing", None, None),
    ],
)  # fmt: skip
def test_several_letters_strictly_and_leniently(reply, strict, lenient):
    sample = make_sample(choices=("ww", "xx", "yy"), answer=(0, 2), several=True, trace=None)
    reply = reply.replace(" w ", " ww ").replace(" y", " yy") if "man" in reply else reply
    for name, letters in (("strict", strict), ("lenient", lenient)):
        verdict = score(name, reply, sample)
        assert (verdict.choice, verdict.correct) == (letters, letters == "A,C"), name


@pytest.mark.parametrize("scorer", ["avhbench", "intentbench"])
def test_a_letter_stands_for_yes_or_no(scorer):
    sample = make_sample(choices=("Yes", "No"), answer=1, trace=None, question_type="judge")
    for reply, right in (("<think>x</think><answer>B</answer>", True), ("<answer>A</answer>", False), ("No", True)):
        assert score(scorer, reply, sample).correct is right
