"""Answers are read by one parser, and strictly."""

import pytest

from avrt.response import format_response, parse_response, read_letters


@pytest.mark.parametrize(
    ("text", "well_formed", "letter", "words"),
    [
        ("<think>a b c</think><answer>B</answer>", True, "B", 3),
        ("  <think>a\nb</think>\n<answer> B </answer>\n", True, "B", 2),
        ("<think></think><answer>B</answer>", False, "B", 0),
        ("<think>a</think><answer>E</answer>", False, None, 1),  # no such choice
        ("<think>a</think><answer>b</answer>", False, None, 1),
        ("<think>a</think><answer>B.</answer>", False, None, 1),
        ("<think>a</think><answer>B or C</answer>", False, None, 1),
        ("<think>a</think><answer>B</answer> sure", False, "B", 1),
        ("so <think>a</think><answer>B</answer>", False, "B", 1),
        ("<answer>B</answer><think>a</think>", False, "B", 1),
        ("<think>a</think><answer>B</answer><answer>C</answer>", False, None, 1),
        ("<think>a <think>b</think><answer>B</answer>", False, "B", 2),
        ("<think>a</think><think>b</think><answer>B</answer>", False, "B", None),
        ("<think>a<answer>B</answer>", False, "B", None),
        ("The answer is B", False, None, None),
        ("", False, None, None),
    ],
)
def test_reads_what_is_there(text, well_formed, letter, words):
    response = parse_response(text, "ABCD")
    assert (response.well_formed, response.letter, response.think_words) == (well_formed, letter, words)


def test_letters_beyond_d_count_when_there_are_choices_for_them():
    assert parse_response("<think>x</think><answer>F</answer>", "ABCDEF").letter == "F"
    assert parse_response("<think>x</think><answer>C</answer>", "AB").letter is None


def test_format_response_is_well_formed():
    assert parse_response(format_response(" seen and heard ", "A"), "AB").well_formed


def test_blank_reasoning_is_not_well_formed():
    for blank in (" ", "\n\t", "\u3000"):
        assert not parse_response(f"<think>{blank}</think><answer>B</answer>", "AB").well_formed


def test_an_answer_may_stand_on_a_line_of_its_own():
    found = parse_response("<think>a\nb</think>\n<answer>\nB\n</answer>", "AB")
    assert (found.letter, found.well_formed) == ("B", True)
    assert parse_response("<think>a</think><answer>B\nC</answer>", "ABC").letter is None


def test_the_target_has_no_blanks_but_those_within_its_reasoning():
    assert format_response("\n seen and  heard \n", "A") == "<think>seen and  heard</think><answer>A</answer>"


def test_the_parts_and_the_whole_are_kept():
    text = "  <think> a\nb </think><answer>B</answer>x"
    found = parse_response(text, "AB")
    assert (found.text, found.think, found.think_words) == (text, " a\nb ", 2)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A, C", "A,C"), ("A,C", "A,C"), ("AC", "A,C"), ("A and C", "A,C"), ("C A", "A,C"), ("C,A", "A,C"),
        ("A/C", "A,C"),
        ("A & C", "A,C"), ("A, B, and D", "A,B,D"), ("A, B and D", "A,B,D"), ("A\nC", "A,C"), (" C ", "C"),
        ("ABCD", "A,B,C,D"),
        ("A;C", "A,C"), ("A+C", "A,C"), ("A  ,  C", "A,C"),
        ("A, E", None), ("a, c", None), ("A, A", None), ("A or C", None), ("A, C.", None), ("(A), (C)", None),
        ("", None),
        ("A,,C", None), (",A", None), ("A,", None), ("A and", None), ("A not C", None), ("A-C", None), ("AandC", None),
        ("A: a dog, C: a cat", None), ("A" + " " * 50_000 + "x", None),
    ],
)  # fmt: skip
def test_letters_of_several_choices_are_read_in_any_order_and_nothing_else(answer, letter):
    assert read_letters(answer, "ABCD") == letter
    found = parse_response(f"<think>x</think><answer>{answer}</answer>", "ABCD", several=True)
    assert (found.letter, found.well_formed) == (letter, letter is not None)


@pytest.mark.parametrize("answer", ["A, C", "AC", "A and C", "A C"])
def test_a_question_with_one_right_choice_is_read_as_strictly_as_ever(answer):
    found = parse_response(f"<think>x</think><answer>{answer}</answer>", "ABCD")
    assert (found.letter, found.well_formed) == (None, False)
