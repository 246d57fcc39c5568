"""Templates: the packaged ones hold what the paper asks for, and wrong ones are refused by name."""

import pytest

from avrt.errors import AvrtError
from avrt.traces.templates import load_template, merger_template, merger_values, question_values, teacher_template
from tests.conftest import make_sample


@pytest.mark.parametrize(
    ("name", "label"), [("visual.txt", "Visual Description:"), ("audio.txt", "Audio Description:")]
)
def test_teachers_are_asked_for_three_labelled_parts_with_an_example(name, label):
    template = teacher_template(name)
    text = template.user
    assert text.count(label) == text.count("Reasoning:") == text.count("Answer:") == 2  # the order, then the example
    assert text.index(label) < text.index("Reasoning:") < text.index("Answer:")
    assert "correct_answer" not in template.placeholders


def test_a_teacher_is_never_told_the_answer(tmp_path):
    one, other = (make_sample(answer=answer) for answer in (0, 2))
    values = [{**question_values(sample), "pictures": "8"} for sample in (one, other)]
    assert teacher_template("visual.txt").render(values[0]) == teacher_template("visual.txt").render(values[1])
    file = tmp_path / "t.txt"
    file.write_text("[user]\n{question}{formatted_choices}{correct_answer}")
    with pytest.raises(AvrtError, match=r"correct_answer.*has no value here"):
        teacher_template(str(file))


@pytest.mark.parametrize("count", [2, 5, 26])
def test_any_number_of_choices(count):
    sample = make_sample(choices=tuple(f"option {i}" for i in range(count)))
    _, text = teacher_template("audio.txt").render({**question_values(sample), "pictures": "0"})
    shown = text.rpartition("Question:")[2]
    assert shown.count("option ") == count
    assert f"({'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[count - 1]}) option {count - 1}" in shown


def test_the_merger_is_told_everything():
    values = merger_values(make_sample(), {"visual": "seen {braces}", "audio": "heard"})
    _, text = merger_template("merger.txt", ["visual", "audio"]).render(values)
    assert "(B) a box" in text
    assert "seen {braces}" in text
    assert "heard" in text


def test_a_merger_must_read_every_teacher():
    with pytest.raises(AvrtError, match=r"speech_reasoning.*missing.*merger_any"):
        merger_template("merger.txt", ["visual", "audio", "speech"])
    values = merger_values(make_sample(), {"visual": "v", "audio": "a", "speech": "words"})
    assert "words" in merger_template("merger_any.txt", ["visual", "audio", "speech"]).render(values)[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[user]\n{question}", "formatted_choices.*missing"),
        ("{question}{formatted_choices}", "before the first part"),
        ("[system]\nhello", "no text under"),
        ("[user]\n{question}{formatted_choices}{qestion}", "qestion.*known"),
    ],
)
def test_wrong_templates_are_refused(tmp_path, text, message):
    file = tmp_path / "t.txt"
    file.write_text(text)
    with pytest.raises(AvrtError, match=message):
        teacher_template(str(file))


def test_unknown_template():
    with pytest.raises(AvrtError, match=r"no such template.*visual\.txt"):
        load_template("nope.txt", [])


def test_where_several_options_are_right_all_of_them_are_told_and_asked_for():
    sample = make_sample(answer=(0, 2), several=True, trace=None)
    assert merger_values(sample, {"audio": "x"})["correct_answer"] == "(A) a ball; (C) a star"
    shown = question_values(sample)["formatted_choices"]
    assert (
        shown
        == "(A) a ball\n(B) a box\n(C) a star\n(More than one of these may be right: name all that are, and no others.)"
    )
    assert "More than one" not in question_values(make_sample())["formatted_choices"]
