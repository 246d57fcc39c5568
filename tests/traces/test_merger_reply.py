"""The trace in a merger's reply: thinking, fences and text around it, missing tags, and faults of the format."""

import pytest

from avrt.traces.checks import CheckOptions, check_trace
from avrt.traces.merger_reply import read_trace
from avrt.traces.requests import Reply
from tests.traces.test_checks import HONEST

TRACE = f"<think>{HONEST}</think><answer>B</answer>"
OWN = "The user wants one paragraph; I will weave both."


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        (TRACE, None),
        (f"\n{TRACE}\n", None),
        (TRACE, OWN),
        (f"<think>{OWN}</think>\n\n{TRACE}", None),
        (f"◁think▷{OWN}◁/think▷{TRACE}", None),
        (f"◁think▷{OWN}◁/think▷\n◁think▷{HONEST}◁/think▷<answer>B</answer>", None),
        (f"{OWN}</think>\n{TRACE}", None),
        (f"{OWN}◁/think▷\n{TRACE}", None),
        (f"{HONEST}</think><answer>B</answer>", None),
        (f"{HONEST}</think>\n\n<answer> B </answer>", OWN),
        ("\n\n<answer>B</answer>", HONEST),
        ("<answer>B</answer>", f"<think>{HONEST}</think>"),
        ("<answer>B</answer>", f"{OWN}</think>\n<think>{HONEST}"),
        ("Here it is: <answer>B</answer>", HONEST),
        (f"```\n{TRACE}\n```", None),
        (f"```xml\n{TRACE}\n```", None),
        (f"~~~html\n{TRACE}\n~~~", None),
        (f"<think>{OWN}</think>```html\n{TRACE}\n```", None),
        ("```\n<answer>B</answer>\n```", HONEST),
        (f"Sure! Here is the trace:\n\n{TRACE}\n\nShall I write another?", None),
        (f"<Think>{HONEST}</THINK>< answer >B</ answer>", None),
        (f"{TRACE}\n{TRACE}", None),
        (f"{TRACE}\n<answer>B</answer>", None),
        (f"<think>It is to be <think>...</think><answer>X</answer>.</think>{TRACE}", None),
        (f"<think>A draft: <think>{OWN}</think><answer>B</answer>. Better:</think>{TRACE}", None),
        (f"<answer>C</answer>? No.</think>{TRACE}", None),
    ],
)
def test_what_is_around_a_trace_is_left_out(text, reasoning):
    trace = read_trace(Reply(text, reasoning))
    assert trace == TRACE
    assert check_trace(trace, "ABCD", "B", CheckOptions()) is None


def test_a_trace_in_the_format_is_unchanged():
    written = f"<think>\n{HONEST}\n</think>\n<answer>B</answer>"
    assert read_trace(Reply(f" {written}\n")) == written


@pytest.mark.parametrize(
    ("text", "reasoning", "cause"),
    [
        (f"{TRACE} or <think>{HONEST} Or not.</think><answer>B</answer>", None, "several traces in one reply"),
        (f"{TRACE} No, <answer>C</answer>", None, "several answers in one reply"),
        (f"<answer>C</answer> was my first thought. {TRACE}", None, "several answers in one reply"),
        ("<answer>A</answer> or <answer>B</answer>", HONEST, "several answers in one reply"),
        (f"<think>{HONEST} <answer>B</answer>", None, "<think> is not closed"),
        (f"<think>{HONEST}</think>", None, "no <answer>X</answer>"),
        ("", HONEST, "the reply is empty"),
        ("<answer>B</answer>", None, "no <think>...</think>, neither in the reply nor in a field of its own"),
        (f"<think>{HONEST}</think><answer>(B) a violin</answer>", None, "not the letter of a choice"),
        (f"<think>{HONEST}</think><answer>E</answer>", None, "not the letter of a choice"),
        (f"<think>{HONEST}</think>So <answer>B</answer>", None, "not exactly"),
    ],
)
def test_traces_that_are_dropped_and_why(text, reasoning, cause):
    told = check_trace(read_trace(Reply(text, reasoning)), "ABCD", "B", CheckOptions())
    assert told.startswith(f"format: {cause}")


def test_thinking_in_the_reply_is_not_mixed_with_thinking_in_a_field():
    text = f"<think>{HONEST}</think>So <answer>B</answer>"
    assert read_trace(Reply(text, OWN)) == text


def test_many_tags_take_no_time():
    assert read_trace(Reply("<think>" * 100_000)).startswith("<think>")
    assert read_trace(Reply("< " * 100_000)).startswith("<")
