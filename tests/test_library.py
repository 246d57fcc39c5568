"""The library: a student is loaded with how it was trained to be asked, and asked so."""

import json
import math
import stat
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

import avrt
from avrt.commands import export
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.loading.datamodule import AVDataModule
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.student_frames import STUDENTS
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.nano_world import THINGS
from avrt.errors import AvrtError
from avrt.policy.input_settings import SETTINGS, InputSettings, read_settings
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.sft_module import SFTModule

QUESTION = "Which thing is seen?"


@pytest.fixture(scope="module")
def seer():
    """The shipped teacher that only sees."""
    return avrt.load("nano/teachers/visual", "cpu")


def clips(world, count):
    """Clips of nano_world, each with one question about it."""
    found = {}
    for sample in ShardSet(world / "train").samples():
        found[world / "clips" / "train" / f"{sample.id.removeprefix('train-').rpartition('-')[0]}.mp4"] = sample
    return list(found.items())[:count]


def test_a_student_is_asked_as_it_was_trained(seer, world):
    """Its own words, frames of its size: asked otherwise, it answers gibberish."""
    asked = clips(world, 6)
    told = [seer.ask(clip, sample.question, sample.choices).text for clip, sample in asked]
    assert sum(f" a {sample.metadata['thing']}." in text for text, (_, sample) in zip(told, asked, strict=True)) >= 5
    asked_otherwise = avrt.Student(seer.policy, InputSettings()).ask(asked[0][0], QUESTION, list(THINGS)).text
    assert not asked_otherwise.startswith("Visual Description: The frames show a ")
    batch = seer.batch(asked[0][0], asked[0][1].question, asked[0][1].choices)
    assert batch.clips[0].frames.shape == (8, 3, 56, 56)
    assert batch.clips[0].audio is None, "it was trained without sound"
    both = seer.batch(asked[0][0], QUESTION, list(THINGS), senses="both")
    assert both.clips[0].audio is not None


def test_scores_agree_with_what_was_sampled(seer, world):
    [(clip, sample)] = clips(world, 1)
    group = seer.rollout(
        clip, sample.question, sample.choices, sample.answer_letter, count=3, seed=1, sampling=SamplingOptions(128)
    )
    assert len({one.response.text for one in group}) > 1
    texts = [one.response.text for one in group if one.finished]
    scores = seer.score(clip, sample.question, sample.choices, texts)
    sampled = [one.logprob for one in group if one.finished]
    assert sampled == pytest.approx(scores, abs=1e-3)
    for one in group:
        assert one.rewards["accuracy"] == float(one.response.letter == sample.answer_letter)
    again = seer.rollout(clip, sample.question, sample.choices, sample.answer, count=3, seed=1)
    assert [one.response.text for one in again] == [one.response.text for one in group]
    bare = seer.score(clip, sample.question, sample.choices)
    assert len(bare) == len(sample.choices)
    assert all(math.isfinite(value) and value < 0 for value in bare)
    with pytest.raises(AvrtError, match="no choice"):
        seer.rollout(clip, sample.question, sample.choices, "Z")


def test_a_checkpoint_of_a_plain_trainer_is_exported_and_asked(world, tmp_path, capsys):
    prompt = PromptOptions(system_prompt="", instruction="Answer.", audio_in_video=True)
    module = SFTModule(StudentOptions("nano", dtype="float32"), generation=SamplingOptions(40, temperature=0.0))
    data = AVDataModule(train=str(world / "train"), batch_size=4, num_workers=0, prompt=prompt)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    [checkpoint] = (tmp_path / "checkpoints").glob("*.ckpt")
    export.main(["--ckpt_path", str(checkpoint), "--out", str(tmp_path / "model")])
    assert f"model: {tmp_path / 'model'}\nnext: avrt ask" in capsys.readouterr().out
    weights = tmp_path / "model" / "model.safetensors"
    assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE((tmp_path / "model" / SETTINGS).stat().st_mode)

    student = avrt.load(tmp_path / "model", "cpu")
    trained, loaded = module.policy.model.state_dict(), student.policy.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in trained.items())
    settings = student.settings
    assert settings.prompt == prompt
    assert settings.clip == ClipSpec(budget=FrameBudget(3136, 3136), still_budget=FrameBudget(3136, 3136))
    assert settings.generation.max_new_tokens == 40
    assert [(s.stage, s.source, dict(s.data)) for s in settings.training] == [("sft", "nano", {"train": 48})]
    assert avrt.load(checkpoint, "cpu").settings == settings
    assert student.data_module(train="x").prompt == prompt
    manifest = json.loads((world / "val" / "manifest.json").read_text())
    manifest["spec"]["audio_seconds"] = None
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"other clips .*: audio_seconds is None, in training 10.0$"):
        student.data_module(train=str(world / "train"), val=str(tmp_path))


@pytest.mark.parametrize("student", STUDENTS)
def test_shards_made_for_a_released_student_are_not_warned_of(student):
    own = STUDENTS[student].spec_for(ClipSpec(audio_seconds=None, total_pixels=None))
    settings = InputSettings()
    assert settings.warn_of_shards("x", own.to_record()) is None
    told = settings.warn_of_shards("x", replace(own, frames=4, budget=FrameBudget(1, 9)).to_record())
    assert "frames is 4, in training 8; budget is" in told


def test_settings_are_read_whole_or_refused(tmp_path):
    settings = InputSettings(
        prompt=PromptOptions(instruction="Say.", senses="audio"), clip=ClipSpec(teacher_budget=FrameBudget(1, 9)),
        generation=SamplingOptions(7),
    )  # fmt: skip
    assert read_settings(tmp_path) is None
    settings.save(tmp_path)
    assert read_settings(tmp_path) == settings
    record = json.loads((tmp_path / SETTINGS).read_text())
    record["prompt"]["tone"] = "kind"
    (tmp_path / SETTINGS).write_text(json.dumps(record))
    with pytest.raises(AvrtError, match=r"avrt_config.json.*PromptOptions has no field 'tone'"):
        read_settings(tmp_path)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(AvrtError, match="cannot be read"):
        read_settings(tmp_path)
