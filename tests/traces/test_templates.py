"""Templates: the packaged ones follow the paper, and faults of others are named."""

import pytest

from avrt.errors import AvrtError
from avrt.traces.media_phrases import Subject
from avrt.traces.requests import Media
from avrt.traces.templates import load_template, merger_template, merger_values, teacher_template, teacher_values
from tests.conftest import make_sample

CLIP = Subject(8, still=False, sound=True)
PICTURES = Subject(8, still=False, sound=False)
STILL = Subject(0, still=True, sound=False)
SOUND = Subject(0, still=False, sound=True)
STILL_AND_SOUND = Subject(0, still=True, sound=True)


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
    values = [teacher_values(sample, PICTURES, CLIP) for sample in (one, other)]
    assert teacher_template("visual.txt").render(values[0]) == teacher_template("visual.txt").render(values[1])
    file = tmp_path / "t.txt"
    file.write_text("[user]\n{question}{formatted_choices}{correct_answer}")
    with pytest.raises(AvrtError, match=r"correct_answer.*has no value here"):
        teacher_template(str(file))


@pytest.mark.parametrize("count", [2, 5, 26])
def test_any_number_of_choices(count):
    sample = make_sample(choices=tuple(f"option {i}" for i in range(count)))
    _, text = teacher_template("audio.txt").render(teacher_values(sample, SOUND, CLIP))
    shown = text.rpartition("Question:")[2]
    assert shown.count("option ") == count
    assert f"({'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[count - 1]}) option {count - 1}" in shown


def test_the_merger_is_told_everything():
    values = merger_values(make_sample(), {"visual": "seen {braces}", "audio": "heard"}, CLIP)
    _, text = merger_template("merger.txt", ["visual", "audio"]).render(values)
    assert "(B) a box" in text
    assert "seen {braces}" in text
    assert "heard" in text


def test_a_merger_must_read_every_teacher():
    with pytest.raises(AvrtError, match=r"speech_reasoning.*missing.*merger_any"):
        merger_template("merger.txt", ["visual", "audio", "speech"])
    values = merger_values(make_sample(), {"visual": "v", "audio": "a", "speech": "words"}, CLIP)
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


def shown(name, subject, teacher_sees):
    return teacher_template(name).render(teacher_values(make_sample(), teacher_sees, subject))


def merged(name, subject, **analyses):
    return merger_template(name, list(analyses)).render(merger_values(make_sample(), analyses, subject))


def test_prompts_about_clips_are_those_of_earlier_releases():
    """They stay the same word for word, so that stored calls match."""
    system, user = shown("visual.txt", CLIP, PICTURES)
    assert system == (
        "You are a vision analyst. You work from pictures alone: you cannot hear the clip and you do not guess at its "
        "sound."
    )
    assert user.startswith(
        "The 8 pictures above were taken at even intervals from one short video, in order of time. Use them to answer a"
        "\nmultiple-choice question about the clip.\n"
    )
    assert "what can be seen and how it changes from the first picture to the last: people" in user
    assert "in the last ones he picks up a spanner" in user
    system, user = shown("audio.txt", CLIP, SOUND)
    assert system.endswith(
        "You work from the recording alone: you cannot see the clip and you do not guess at its pictures."
    )
    assert user.startswith(
        "Listen to the recording of one short clip and answer a multiple-choice question about it.\n"
    )
    system, user = merged("merger.txt", CLIP, audio="heard", visual="seen")
    assert system.endswith("about what is seen and heard in short clips.")
    assert user.startswith(
        "Below are a multiple-choice question about a clip, its correct option, and two separate studies of the clip: "
        "one by somebody\nwho only heard it, one by somebody who only saw it. Write the reasoning of a single observer "
        "who both saw and heard the clip\nand works out the answer.\n"
    )
    assert "or any study of the clip, was handed to you" in user


@pytest.mark.parametrize(
    ("subject", "sees", "told", "untold"),
    [
        (STILL_AND_SOUND, STILL, ["one still picture. Use it to", "what can be seen: people", "the picture and the"],
         ["intervals", "video", "pictures", "last", "clip"]),
        (STILL, STILL, ["one still picture. Use it to", "question about the picture."], ["video", "recording"]),
        (Subject(1, still=False, sound=True), Subject(1, still=False, sound=False),
         ["The picture above was taken from one short video. Use it to", "about the clip"], ["intervals"]),
        (Subject(4, still=True, sound=True), Subject(4, still=True, sound=False),
         ["The first 4 pictures above", "one more still picture belongs to it. Use them"], ["5 pictures"]),
    ],
)  # fmt: skip
def test_phrases_of_a_visual_teacher(subject, sees, told, untold):
    whole = "\n".join(shown("visual.txt", subject, sees))
    assert all(part in whole for part in told)
    assert not [part for part in untold if part in whole]


def test_the_subject_of_media():
    members = {"0.jpg": b"", "10.jpg": b"", "2.jpg": b"", "image.jpg": b"", "flac": b"", "clip.json": b""}
    assert Subject.of(Media(members)) == Subject(3, still=True, sound=True)
    assert Subject.of(Media({name: members[name] for name in ("image.jpg", "flac", "clip.json")})) == STILL_AND_SOUND
    assert Subject.of(Media({name: members[name] for name in ("flac", "clip.json")})) == SOUND
    assert Subject.of(Media()) == Subject(0, still=False, sound=False)


def test_phrases_of_an_audio_teacher():
    alone = "\n".join(shown("audio.txt", SOUND, SOUND))
    assert "You work from the recording alone.\n" in alone
    assert "Listen to one recording and answer" in alone
    assert "clip" not in alone
    beside = "\n".join(shown("audio.txt", STILL_AND_SOUND, SOUND))
    assert "you cannot see the picture that belongs to it" in beside
    assert "clip" not in beside


@pytest.mark.parametrize("name", ["merger.txt", "merger_any.txt"])
def test_phrases_of_a_merger(name):
    both = "\n".join(merged(name, STILL_AND_SOUND, visual="seen", audio="heard"))
    assert "about a picture and a recording that belong together" in both
    assert "saw the picture and heard the recording" in both
    assert "clip" not in both
    assert "short" not in both
    if name == "merger.txt":
        assert "only heard\nthe recording, one by somebody who only saw the picture." in both


def test_phrases_of_a_merger_for_audio_alone():
    told = "\n".join(merged("merger_any.txt", SOUND, audio="a bell"))
    assert "about a recording, its correct option, and a study of it by somebody who listened to it." in told
    assert "From the study of what is heard:\na bell" in told
    assert not [word for word in ("clip", "seen and", "saw", "picture") if word in told]
    told = "\n".join(merged("merger.txt", SOUND, audio="a bell", visual=""))
    assert "What was seen:\n(nothing)" in told
    assert "Bring what is heard into one line of thought." in told


def test_studies_of_further_teachers_have_headings():
    told = merged("merger_any.txt", CLIP, visual="v", audio="a", speech="s")[1]
    assert "From the study of the clip's visual side:\nv\n\nFrom the study of the clip's audio side:\na" in told
    assert "people who each had only\npart of it" in told
    assert "by somebody who had only part of it" in merged("merger_any.txt", CLIP, audio="a")[1]
    assert "From the study called speech:\ns" in merged("merger_any.txt", SOUND, speech="s", audio="a")[1]


def test_the_packaged_think_prompt_is_the_audio_prompt_and_its_request():
    """Audio Flamingo 3's authors end their questions with this sentence."""
    plain, think = shown("audio.txt", CLIP, SOUND), shown("audio_flamingo_think.txt", CLIP, SOUND)
    request = "\nPlease think and reason about the input audio before you respond."
    assert think == (plain[0], plain[1] + request)


def test_prompts_with_the_papers_placeholders_can_be_pasted(tmp_path):
    """A file with the paper's placeholders alone, with or without a line break between question and choices."""
    teacher, merger = tmp_path / "visual.txt", tmp_path / "merger.txt"
    teacher.write_text("[system]\nYou see.\n\n[user]\nQuestion: {question}{formatted_choices}\nAnswer now.\n")
    merger.write_text(
        "[user]\n{question}{formatted_choices}\nRight: {correct_answer}\nHeard: {audio_reasoning}\n"
        "Seen: {vision_reasoning}\n",
        encoding="utf-8-sig",
    )
    asked = "Which thing is seen?\n(A) a ball\n(B) a box\n(C) a star"
    assert shown(str(teacher), CLIP, PICTURES) == ("You see.", f"Question: {asked}\nAnswer now.")
    assert merged(str(merger), CLIP, audio="a", visual="v") == ("", f"{asked}\nRight: (B) a box\nHeard: a\nSeen: v")


def test_several_right_options():
    sample = make_sample(answer=(0, 2), several=True, trace=None)
    assert merger_values(sample, {"audio": "x"}, CLIP)["correct_answer"] == "(A) a ball; (C) a star"
    shown = teacher_values(sample, SOUND, CLIP)["formatted_choices"]
    assert (
        shown
        == "(A) a ball\n(B) a box\n(C) a star\n(More than one of these may be right: name all that are, and no others.)"
    )
    assert "More than one" not in teacher_values(make_sample(), SOUND, CLIP)["formatted_choices"]
