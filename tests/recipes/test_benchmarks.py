"""The recipes of MMAR, OmniBench, AVQA and AVQA-R1-6K: real media in each dataset's layout, and hostile rows."""

import json
from collections import Counter

import pytest
import soundfile
import torch

from avrt.commands import shards as shards_command
from avrt.data.media.codecs import to_jpeg
from avrt.data.sample import Modality, Relation
from avrt.data.shards.conversion import SourceItem
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.avqa import AVQA
from avrt.data_recipes.mmar import MMAR
from avrt.errors import BadSampleError, NothingUsableError
from tests.conftest import make_clip


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, torch.randn(22_050).numpy() * 0.1, 22_050)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_jpeg(torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8)))


def convert(recipe, root, *extra):
    shards_command.main([recipe, "--root", str(root), "--out", str(root / "out"), *extra])
    return ShardSet(root / "out")


def test_mmar(tmp_path):
    row = {
        "id": "x", "audio_path": "./audio/x.wav", "question": "What is it?", "choices": ["a dog", "a cat"],
        "answer": "a cat", "modality": "sound", "category": "Signal Layer", "sub-category": "Counting",
    }  # fmt: skip
    rows = [
        row,
        {**row, "choices": list("abcdef"), "answer": "f"},
        {**row, "answer": "a cow"},
        {**row, "choices": ["same", "same"], "answer": "same"},
        {**row, "audio_path": "../../secret.wav"},
        {**row, "audio_path": "./audio/gone.wav"},
    ]
    (tmp_path / "MMAR-meta.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sound(tmp_path / "audio" / "x.wav")
    shards = convert("mmar", tmp_path)
    samples = sorted(shards.samples(), key=lambda s: s.id)
    assert [(s.answer_letter, len(s.choices), s.media) for s in samples] == [
        ("B", 2, (Modality.AUDIO,)), ("F", 6, (Modality.AUDIO,))
    ]  # fmt: skip
    reasons = " ".join(shards.manifest.skipped.values())
    for told in ("'a cow', which no choice says", "1 different text", "leads out of the dataset", "missing: gone.wav"):
        assert told in reasons


def test_omnibench(tmp_path):
    row = {
        "index": 4, "task type": "Action", "audio type": "speech", "question": "Who speaks?",
        "options": ["he", "she", "they", "it"], "answer": "they", "audio_path": "1.wav", "image_path": "1.jpg",
        "image content": "a", "audio content": "b",
    }  # fmt: skip
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "batch-5_1142_20240817.jsonl").write_text(json.dumps(row))
    sound(tmp_path / "mm_data" / "audio" / "1.wav")
    picture(tmp_path / "mm_data" / "image" / "1.jpg")
    [sample] = convert("omnibench", tmp_path).samples()
    assert (sample.answer_letter, sample.question_type) == ("C", "Action")
    assert set(sample.media) == {Modality.IMAGE, Modality.AUDIO}
    assert sample.metadata["audio_type"] == "speech"


def test_avqa_with_choices_that_are_null(tmp_path):
    row = {
        "id": 7, "video_name": "-abc_000030", "video_id": 3, "question_text": "What is it?",
        "multi_choice": ["dog", "cat", "car", "rain"], "answer": 2,
        "question_relation": "Both", "question_type": "Which",
    }  # fmt: skip
    rows = [
        row,
        {**row, "id": 8, "multi_choice": ["dog", None, "car", None]},
        {**row, "id": 9, "multi_choice": ["dog", "cat", None, "rain"]},
        {**row, "id": 10, "multi_choice": [None, None, "car", None]},
        {**row, "id": 11, "question_relation": "Sound", "video_name": "gone"},
        {**row, "id": 12, "video_name": "../x"},
    ]
    (tmp_path / "train_qa.json").write_text(json.dumps(rows))
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "-abc_000030.mp4")
    items = list(AVQA().items(tmp_path))
    usable = {i.sample.id: i.sample for i in items if isinstance(i, SourceItem)}
    assert usable["avqa-train-8"].choices == ("dog", "car")
    assert usable["avqa-train-8"].answer_letter == "B"
    assert usable["avqa-train-11"].relation is Relation.AUDIO
    assert len([i for i in items if isinstance(i, BadSampleError)]) == 3
    shards = convert("avqa", tmp_path)
    assert sorted(s.id for s in shards.samples()) == ["avqa-train-7", "avqa-train-8"]


def test_avqa_r1(tmp_path):
    row = {
        "problem_id": 1, "problem": "What is it?", "data_type": "image_audio", "problem_type": "multiple choice",
        "options": ["A. dog", "B. cat"], "solution": "<answer>B</answer>",
        "path": {"image": "media/1.jpg", "audio": "media/1.wav"}, "data_source": "AVQA",
    }  # fmt: skip
    (tmp_path / "valid.json").write_text(json.dumps([row, {**row, "problem_id": 2, "solution": "B"}]))
    sound(tmp_path / "media" / "1.wav")
    picture(tmp_path / "media" / "1.jpg")
    shards = convert("avqa_r1", tmp_path, "--split", "valid")
    [sample] = shards.samples()
    assert (sample.choices, sample.answer_letter) == (("dog", "cat"), "B")
    assert "'solution'" in str(shards.manifest.skipped)


def test_a_link_out_of_the_dataset_is_refused(tmp_path):
    outside = tmp_path / "outside"
    sound(outside / "x.wav")
    root = tmp_path / "root"
    root.mkdir()
    (root / "audio").symlink_to(outside)
    row = {
        "id": "x",
        "audio_path": "audio/x.wav",
        "question": "?",
        "choices": ["a", "b"],
        "answer": "a",
        "category": "c",
    }
    (root / "MMAR-meta.jsonl").write_text(json.dumps(row))
    [error] = MMAR().items(root)
    assert "through a link" in str(error)


def test_real_mmar_annotations(shared_data, capsys):
    items = list(MMAR().items(shared_data / "mmar"))
    samples = [item.sample for item in items if isinstance(item, SourceItem)]
    assert len(items) == 1000
    assert len(samples) == 1000, [str(i) for i in items if isinstance(i, BadSampleError)]
    rows = [json.loads(line) for line in (shared_data / "mmar" / "MMAR-meta.jsonl").read_text().splitlines()]
    assert Counter(len(row["choices"]) for row in rows) == {4: 815, 2: 171, 3: 10, 5: 3, 6: 1}
    # one of three choices and three of five choices are empty
    assert Counter(len(s.choices) for s in samples) == {4: 818, 2: 172, 3: 9, 6: 1}
    assert len({s.metadata["modality"] for s in samples}) == 7
    with pytest.raises(NothingUsableError, match="none of 1000 questions"):
        shards_command.main(["mmar", "--root", str(shared_data / "mmar"), "--out", "unused", "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "1000 questions, 0 of them with their media" in printed


@pytest.mark.parametrize("recipe", ["mmar", "omnibench", "avqa", "avqa_r1"])
def test_missing_annotations_are_named(recipe, tmp_path):
    with pytest.raises(Exception, match="no such file"):
        convert(recipe, tmp_path)
