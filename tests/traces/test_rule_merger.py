"""The rule-based merger: every teacher's statements, option by option, in the target format."""

from avrt.response import parse_response
from avrt.traces.requests import MergeInputs
from avrt.traces.rule_merger import RuleMerger, merge_analyses

VISUAL = "Visual Description: The frames show a red ball.\nReasoning: A: red ball is red ball. B: red ball is red ball. C: blue box not red ball."  # noqa: E501
AUDIO = "Audio Description: The sound is a low hum.\nReasoning: A: high whistle not low hum. B: low hum is low hum. C: low hum is low hum."  # noqa: E501


def test_statements_of_both_are_merged_up_to_the_answer():
    text = merge_analyses(MergeInputs(("x", "y", "z"), "B", {"visual": VISUAL, "audio": AUDIO}))
    assert text == (
        "<think>The frames show a red ball. The sound is a low hum. A: red ball is red ball, high whistle not low hum. "
        "B: red ball is red ball, low hum is low hum.</think><answer>B</answer>"
    )


def test_bracketed_options_and_one_teacher():
    text = merge_analyses(
        MergeInputs(("x", "y"), "B", {"audio": "Audio Description: a hum\nReasoning: (A) No. (B) It hums."})
    )
    assert text == "<think>a hum. A: No. B: It hums.</think><answer>B</answer>"


def test_reasoning_without_options_is_kept_with_a_conclusion():
    text = merge_analyses(
        MergeInputs(
            ("a dog", "a cat"),
            "A",
            {"visual": "It barks.", "audio": "Audio Description: Barking.\nReasoning: Dogs do."},
        )
    )
    assert text == "<think>It barks. Barking. Dogs do. So a dog fits best.</think><answer>A</answer>"
    assert parse_response(text, "AB").well_formed


def test_all_right_options_are_merged():
    text = merge_analyses(MergeInputs(("x", "y", "z"), "A,B", {"visual": VISUAL, "audio": AUDIO}))
    assert text.endswith("B: red ball is red ball, low hum is low hum.</think><answer>A,B</answer>")
    assert "C:" not in text
    assert parse_response(text, "ABC", several=True).letter == "A,B"
    free = merge_analyses(MergeInputs(("a dog", "a cat", "rain"), "A,C", {"visual": "It barks."}))
    assert free == "<think>It barks. So a dog and rain fit best.</think><answer>A,C</answer>"


def test_a_merger_that_does_not_weigh_the_options():
    inputs = MergeInputs(("x", "y", "z"), "B", {"visual": VISUAL, "audio": AUDIO})
    brief = merge_analyses(inputs, weighs_options=False)
    assert brief.startswith(merge_analyses(inputs).partition(" A: ")[0])
    assert brief.endswith("So y fits best.</think><answer>B</answer>")
    assert RuleMerger(weighs_options=False).model != RuleMerger().model
