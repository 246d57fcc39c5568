"""Questions of each kind through `avrt test` on the nano student, from rows in a benchmark's layout to its result."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from avrt.cli import main
from avrt.commands.recipe_names import find_recipe
from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip, FrameBudget
from avrt.data.sample import Evidence, Relation
from avrt.data.shards.conversion import write_shards
from avrt.evaluation.predictions import read_predictions
from avrt.evaluation.result import Result
from avrt.prompts import INSTRUCTION, SEVERAL_INSTRUCTION
from tests.conftest import make_clip, make_sample
from tests.recipes.test_intent import MOODS, intent
from tests.recipes.test_more_benchmarks import AVH, MMAU_ROW


@pytest.fixture
def test(tmp_path, monkeypatch):
    def run(name, **files):
        kind = find_recipe(name)
        for file, rows in files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(json.dumps(rows))
        spec = replace(kind.clip, frames=2, fps=None, budget=FrameBudget(3136, 3136))
        manifest = write_shards(kind().items(tmp_path), tmp_path / "shards", spec)
        assert manifest.samples == sum(len(rows) for rows in files.values()) - len(manifest.skipped)
        out = tmp_path / "out"
        words = f"test --config {name}.yaml --data.num_workers 0 --model.student.source nano --trainer.accelerator cpu"
        words += " --model.student.dtype float32 --model.generation.max_new_tokens 4"
        words += " --trainer.devices 1"
        folders = ["--data.test", str(tmp_path / "shards"), "--trainer.default_root_dir", str(out)]
        monkeypatch.setattr(sys, "argv", ["avrt", *words.split(), *folders])
        main()
        return Result.load(out / "result.json"), read_predictions(out / "predictions.jsonl")

    return run


def test_one_letter(test, tmp_path):
    (tmp_path / "test-mini-audios").mkdir()
    soundfile.write(tmp_path / "test-mini-audios" / "ab-1.wav", np.sin(np.arange(11 * 16_000) / 9) * 0.3, 16_000)
    rows = [MMAU_ROW, {**MMAU_ROW, "id": "ab-2", "answer": "Man", "task": "music"}]
    result, predictions = test("mmau", **{"mmau-test-mini.json": rows})
    assert (result.official, result.counts["questions"], result.counts["expected"]) == ("mmau", 2, 1000)
    assert [p.answer for p in predictions] == ["B", "A"]
    assert set(result.groups["question_type"]) == {"speech", "music"}
    assert result.protocol["clips.audio_seconds"] is None
    assert "yes_no" not in result.scores["mmau"]


def test_yes_and_no(test, tmp_path):
    (tmp_path / "video").mkdir()
    make_clip(tmp_path / "video" / "00191.mp4", frames=6, sound_seconds=0.6)
    result, predictions = test("avhbench", **{"json/qa.json": AVH})
    assert [(p.answer, p.choices) for p in predictions] == [(a, ("Yes", "No")) for a in "ABA"]
    found = result.scores["avhbench"]["yes_no"]
    assert set(found) == {"all", *(row["task"] for row in AVH[:3])}
    assert found["all"]["answers"] == 3
    assert set(found["all"]) >= {"accuracy", "precision", "recall", "f1", "yes"}
    assert found["all"]["accuracy"] == result.scores["avhbench"]["accuracy"]
    assert result.counts["left_out_of_shards"] == 1  # the captioning row
    assert set(result.groups["relation"]) == {"audio", "vision", "both"}


def test_several_letters(test, tmp_path):
    (tmp_path / "videos" / "social_iq").mkdir(parents=True)
    make_clip(tmp_path / "videos" / "social_iq" / "1.mp4", frames=6, sound_seconds=0.6)
    rows = [
        intent(), intent(problem_type="emer_ov_mc", options=MOODS, answer="B,E", solution=None),
        intent(problem_type="judge", options=[], answer="No", solution=None),
        intent(problem_type="free-form", options=[], answer="x"),
    ]  # fmt: skip
    result, predictions = test("intentbench", **{"qa.json": rows})
    assert [(p.answer, p.several) for p in predictions] == [("B", False), ("B,E", True), ("B", False)]
    assert (result.counts["questions"], result.counts["left_out_of_shards"]) == (3, 1)
    assert result.scores["intentbench"]["count"] == 3
    assert result.protocol["prompt.several_instruction"] == SEVERAL_INSTRUCTION


def test_the_prompt_asks_for_all_right_choices_and_tells_none(nano):
    seen = Evidence(Relation.VISION, "a purple giraffe", "so it is the zoo")
    several = make_sample(answer=(0, 2), several=True, trace=None, evidence=(seen,))
    builder = Preprocessor(nano.inputs, PromptOptions(), targets=True)
    row, one = (collate([builder.row(sample, Clip())]) for sample in (several, make_sample(trace=None)))
    text = nano.inputs.processor.tokenizer.decode(row.prompt_ids[0])
    assert SEVERAL_INSTRUCTION in text
    assert INSTRUCTION not in text
    assert "giraffe" not in text
    assert "zoo" not in text
    assert INSTRUCTION in nano.inputs.processor.tokenizer.decode(one.prompt_ids[0])
    assert "<answer>A,C</answer>" in nano.inputs.processor.tokenizer.decode(row.completion_ids[0])


def test_an_own_instruction_for_several_letters(nano):
    options = PromptOptions(several_instruction="Name all that fit.")
    builder = Preprocessor(nano.inputs, options, targets=False)
    batch = collate([builder.row(make_sample(answer=(0,), several=True, trace=None), Clip())])
    text = nano.inputs.processor.tokenizer.decode(batch.prompt_ids[0])
    assert text.count("Name all that fit.") == 1
