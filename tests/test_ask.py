"""`avrt ask`: the packaged student answers about a clip as it was trained to, with no settings given."""

from pathlib import Path

import pytest

from avrt.commands import ask
from avrt.errors import AvrtError

QUESTION = ("Which sound is heard?", "rising siren", "slow warble", "quick clicks", "steady hiss")


def test_the_packaged_student_hears_and_says_so(world, capsys):
    clip = next(iter(sorted((world / "clips" / "train").glob("*.mp4"))))
    ask.main(["nano/student", str(clip), *QUESTION])
    heard = capsys.readouterr().out
    # The first clip of nano_world, for any number of clips: a purple cross, and a steady hiss.
    assert "The sound is a steady hiss." in heard
    assert "answer: (D) steady hiss" in heard
    ask.main(["nano/student", str(clip), *QUESTION, "--senses", "vision"])
    assert "reasoning: The frames show a purple cross." in capsys.readouterr().out


def test_what_cannot_be_asked_is_named_before_a_model_is_loaded(world):
    with pytest.raises(AvrtError, match=r"nowhere\.mp4: no such file"):
        ask.main(["nano/student", "nowhere.mp4", *QUESTION])
    clip = next((world / "clips" / "train").glob("*.mp4"))
    with pytest.raises(AvrtError, match="choices: needs two or more"):
        ask.main(["nano/student", str(clip), "What?", "one"])


def test_what_is_no_clip_and_what_is_no_model_is_told_with_the_remedy(world, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(AvrtError, match=r"cannot be opened.*is it a video, a picture or a sound"):
        ask.main(["nano/student", str(text), *QUESTION])
    clip = next((world / "clips" / "train").glob("*.mp4"))
    with pytest.raises(AvrtError, match="did you mean nano/student"):
        ask.main(["nano/studnet", str(clip), *QUESTION])


def test_an_answer_in_another_form_is_shown_as_it_is(world, capsys):
    clip: Path = next((world / "clips" / "train").glob("*.mp4"))
    ask.main(["nano", str(clip), "What?", "one", "two"])
    assert "answer: none in the form" in capsys.readouterr().out
