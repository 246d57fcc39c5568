"""Teachers' replies: thinking in every form, and the chosen option in many wordings."""

import pytest

from avrt.traces.analysis import read_analysis, split_analysis, split_thinking

CHOICES = ("a dog", "a cat", "an owl", "A")


@pytest.mark.parametrize(
    ("text", "reasoning", "thinking", "rest"),
    [
        ("<think>hm</think>Answer: (A)", None, "hm", "Answer: (A)"),
        ("◁think▷hm◁/think▷Answer: (A)", None, "hm", "Answer: (A)"),
        ("hm</think>Answer: (A)", None, "hm", "Answer: (A)"),  # the chat template wrote the opening tag
        ("hm ◁/think▷ Answer: (A)", None, "hm", "Answer: (A)"),
        ("<think>never ends", None, "never ends", ""),
        ("◁think▷never ends", None, "never ends", ""),
        ("Answer: (A)", "hm", "hm", "Answer: (A)"),
        ("Answer: (A)", None, "", "Answer: (A)"),
        ("<THINK>hm</THINK>Answer: (A)", None, "hm", "Answer: (A)"),
        ("< think >hm</ think>Answer: (A)", None, "hm", "Answer: (A)"),
        ("<thinking>hm</thinking>Answer: (A)", None, "hm", "Answer: (A)"),
        ("<think>hm</think>A dog.<think>or\nnot</think>Answer: (A)", None, "hm\nor\nnot", "A dog.\nAnswer: (A)"),
        ("A dog.\n<think>hm</think>\nAnswer: (A)", None, "hm", "A dog.\nAnswer: (A)"),
        ("hm</think>A dog.<think>or not</think>", None, "hm\nor not", "A dog."),
        ("hm</think>Answer: (A)</think>", None, "hm", "Answer: (A)"),
        ("Answer: (A)<think>hm", None, "hm", "Answer: (A)"),
        ("<think>hm</think>Answer: (A)", "hm", "hm", "Answer: (A)"),  # the server sends it in both places
        ("<think>so</think>Answer: (A)", "hm", "hm\nso", "Answer: (A)"),
        ("Answer: (A)", "<think>hm</think>", "hm", "Answer: (A)"),
    ],
)
def test_thinking_is_separated(text, reasoning, thinking, rest):
    assert split_thinking(text, reasoning) == (thinking, rest)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Answer: (B) a cat", "B"),
        ("**Answer:** (B) a cat.", "B"),
        ("Final Answer: B", "B"),
        ("answer: B.", "B"),
        ("Answer: B) a cat", "B"),
        ("Answer: B: a cat", "B"),
        ("Answer: a cat", "B"),
        ("Answer: The right one is (C).", "C"),
        ("Answer: \n(C) an owl", "C"),
        ("Answer: A dog", "A"),  # the option's text, not a letter that happens to be an article
        ("Answer: A fox", None),
        ("Answer: A", None),  # the first option, or the one that is called A
        ("Answer: (A)", "A"),
        ("Answer: (B) an owl", None),  # letter and text contradict each other
        ("Answer: (E) a fish", None),
        ("Answer: none of them", None),
        ("Answer:", None),
        ("I would say (B)", "B"),
        ("The answer: (A). No, wait. Answer: (C) an owl", "C"),
    ],
)
def test_the_chosen_option(answer, letter):
    reply = f"Visual Description: it moves.\nReasoning: (A) no. (B) yes.\n{answer}"
    assert read_analysis(reply, CHOICES).letter == letter


def test_the_text_has_neither_answer_nor_thinking():
    read = read_analysis("<think>Answer: (A)</think>Audio Description: a meow.\nAnswer: (B) a cat", CHOICES)
    assert read.text == "Audio Description: a meow."
    assert read.letter == "B"


def test_replies_with_think_and_answer_tags():
    assert read_analysis("<think>x</think><answer>C</answer>", CHOICES).letter == "C"
    read = read_analysis("<think>x</think><answer>C</answer>", CHOICES)
    assert (read.text, read.thinking, read.for_merger(), read.for_merger(thinking=False)) == ("", "x", "x", "")
    assert read_analysis("<think>x</think><answer>C or D</answer>", CHOICES).letter is None


def test_a_reply_of_thinking_alone_chooses_nothing():
    read = read_analysis("<think>I see a dog", CHOICES)
    assert (read.text, read.for_merger(), read.letter) == ("", "I see a dog", None)


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>A mask and a snorkel: (A).</think>\n{}", None),
        ("◁think▷A mask and a snorkel: (A).◁/think▷{}", None),
        ("A mask and a snorkel: (A).</think>{}", None),
        ("{}", "A mask and a snorkel: (A)."),
    ],
)
def test_a_merger_gets_thinking_and_text_or_the_text_alone(text, reasoning):
    spoken = "Visual Description: a diver.\nReasoning: it floats.\nAnswer: (B) a cat"
    read = read_analysis(text.format(spoken), CHOICES, reasoning)
    open_text = "Visual Description: a diver.\nReasoning: it floats."
    assert read.for_merger() == f"A mask and a snorkel: (A).\n\n{open_text}"
    assert read.for_merger(thinking=False) == open_text
    assert read.letter == "B"  # never the one that was only thought of


def test_long_thinking_loses_its_middle():
    thought = "one two\nthree  four five six seven"
    read = read_analysis(f"<think>{thought}</think>A dog.\nAnswer: (A)", CHOICES)
    assert read.for_merger(words=7) == read.for_merger() == f"{thought}\n\nA dog."
    assert read.for_merger(words=3) == "one two\n[...]\nseven\n\nA dog."
    assert read.for_merger(words=4) == "one two\n[...]\nsix seven\n\nA dog."
    assert read.for_merger(words=1) == "one\n[...]\n\nA dog."
    assert read_analysis("A dog.", CHOICES).for_merger(words=1) == "A dog."


def test_parts_of_an_analysis():
    assert split_analysis("Visual Description: a.\nb.\nReasoning: c.") == ("a.\nb.", "c.")
    assert split_analysis("**Audio Description:** a.\n**Reasoning:** c.")[1] == "c."
    assert split_analysis("no labels at all") == ("no labels at all", "")


def test_a_reply_that_is_cut_off_chooses_nothing():
    reply = "Audio Description: a meow.\nAnswer: (B) a cat"
    assert read_analysis(reply, CHOICES, cut_off=False).letter == "B"
    cut = read_analysis(reply, CHOICES, cut_off=True)
    assert (cut.text, cut.letter) == ("Audio Description: a meow.", None)
    assert read_analysis("<think>x</think><answer>B</answer>", CHOICES, cut_off=True).letter is None


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ("Answer:", "A meow."),
        ("**Final Answer:**", "A meow."),
        ("final answer is:", "A meow."),
        ("__Answer__\uff1a", "A meow."),
        ("## Answer:", "A meow."),
        ("Nonanswer:", "A meow.\nNonanswer: (B) a cat"),
        ("answer", "A meow.\nanswer (B) a cat"),
    ],
)
def test_the_analysis_ends_before_the_label_of_the_answer(label, kept):
    assert read_analysis(f"A meow.\n{label} (B) a cat", CHOICES).text == kept


def test_only_the_last_label_ends_the_analysis():
    read = read_analysis("Answer: hard to say.\nA meow.\n# Answer: (B) a cat", CHOICES)
    assert (read.text, read.letter) == ("Answer: hard to say.\nA meow.", "B")
    assert read_analysis("<think>x</think>A meow. <answer>B</answer>", CHOICES).text == "A meow."


def test_parts_are_taken_without_the_space_around_them():
    assert split_analysis("Description: a dog\n\nReasoning: \n it barks \n") == ("a dog", "it barks")
    assert split_analysis("  no label \n") == ("no label", "")
    assert read_analysis("  a thing that barks \n", CHOICES).text == "a thing that barks"


def test_thinking_without_an_end_is_thinking_over_all_its_lines():
    assert split_thinking("<think>first\nsecond") == ("first\nsecond", "")
    assert read_analysis("<think>first\nAnswer: (B)", CHOICES).letter is None


def test_a_teacher_may_choose_several():
    reply = "Audio Description: a meow and a bark.\nReasoning: both.\nAnswer: (A) a dog, (B) a cat"
    assert read_analysis(reply, ("a dog", "a cat", "rain"), several=True).letter == "A,B"
    assert read_analysis(reply, ("a dog", "a cat", "rain")).letter is None
    assert read_analysis(reply, ("a dog", "a cat", "rain"), several=True, cut_off=True).letter is None
