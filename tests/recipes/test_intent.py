"""Recipes of IntentBench and IntentTrain: rows with one right choice, several, yes/no, and those without choices."""

from pathlib import Path

import pytest

from avrt.data_recipes.intentbench import IntentBench
from avrt.data_recipes.intenttrain import IntentTrain
from avrt.errors import AvrtError
from tests.recipes.converting import convert, parts, put


def intent(**changes):
    row = {"problem": "Is he calm?", "problem_type": "multiple choice", "data_type": "video", "options": ["A. Yes",
    "B. So so"],
           "answer": "B", "solution": "<answer>B</answer>", "path": "social_iq/1.mp4"}  # fmt: skip
    return {**row, **changes}


MOODS = ["A. Questioning", "B. Helpless", "C. Curiosity", "D. Sentimentality", "E. Angry", "F. Friendly"]


def test_intentbench_has_three_kinds_of_answers(tmp_path, clip):
    emer = intent(problem_type="emer_ov_mc", options=MOODS, answer="B,E", solution=None, qid=7, Type="emer")
    rows = [
        intent(qid=1, Type="social"),
        emer,
        {**emer, "answer": "F", "solution": "<answer>F</answer>"},
        {**emer, "answer": None, "solution": "<answer>A, C, D</answer>"},
        intent(problem_type="judge", options=[], answer="Yes", solution=None, Type="deception"),
        intent(problem_type="free-form", options=[], answer="He is"),
        intent(problem_type="numerical", options=[], answer="4"),
        {**emer, "answer": "B,G"},
        intent(data_type="image"),
        {**emer, "answer": "E,B", "solution": "<answer>B, E</answer>"},
        intent(answer="A"),
    ]
    for row in rows:
        row["video"] = row.pop("path")
    put(tmp_path, "qa.json", rows)
    put(tmp_path, "videos/social_iq/1.mp4", clip)
    shards = convert("intentbench", tmp_path)
    samples = list(shards.samples())
    assert [(s.answer_letter, s.several, s.yes_no) for s in samples] == [
        ("B", False, False), ("B,E", True, False), ("F", True, False), ("A,C,D", True, False), ("A", False, True),
        ("B,E", True, False),
    ]  # fmt: skip
    assert [s.question_type for s in samples] == ["multiple choice", *["emer_ov_mc"] * 3, "judge", "emer_ov_mc"]
    assert (samples[1].metadata["Type"], samples[1].metadata["qid"]) == ("emer", 7)
    skipped = " ".join(shards.manifest.skipped.values())
    for told in ("problem_type 'free-form', which has no choices", "problem_type 'numerical', which has no choices",
                 "'B,G'", "'data_type' is 'image'",
                 "'solution' '<answer>B</answer>', which differ"):  # fmt: skip
        assert told in skipped
    assert len(shards.manifest.skipped) == 5


def test_intenttrain_reads_what_files_are_there(tmp_path):
    put(
        tmp_path,
        "social_iq_v2_rewrite.json",
        [intent(), intent(answer="A", solution=None), intent(problem_type="free-form")],
    )
    assert len(parts(IntentTrain().items(tmp_path))[0]) == 2
    put(
        tmp_path,
        "emer_rewrite.json",
        [intent(problem_type="emer_ov_mc", options=MOODS, answer="A,B,C,D,E,F", solution=None)],
    )
    good, bad = parts(IntentTrain().items(tmp_path))
    assert sorted(i.sample.answer_letter for i in good) == ["A", "A,B,C,D,E,F", "B"]
    assert len(bad) == 1
    good, bad = parts(IntentTrain(only="multiple choice").items(tmp_path))
    assert len(good) == 2
    assert sum("'emer_ov_mc', left out by --only" in why for why in bad) == 1
    assert (IntentTrain.clip.frames, IntentTrain.clip.fps, IntentTrain.clip.audio_seconds) == (8, None, None)
    with pytest.raises(AvrtError, match=r"no such file .*emer_rewrite\.json"):
        list(IntentTrain().items(tmp_path / "nowhere"))


def test_paths_out_of_the_root_are_refused(tmp_path):
    put(tmp_path, "qa.json", [intent(path="../../etc/passwd"), intent(path=None), intent(path=["a"])])
    good, bad = parts(IntentBench().items(tmp_path))
    assert (good, len(bad)) == ([], 3)
    assert not Path("/etc/passwd.mp4").exists()
