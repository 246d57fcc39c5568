"""Commands ask a student as it was trained, unless a field is set; what differs is told once."""

import json
import warnings

import pytest
import yaml

from avrt.cli import resolve_configs
from avrt.data.media.clip import ClipSpec
from avrt.errors import AvrtError
from avrt.evaluation.result import Result
from avrt.policy.input_settings import SETTINGS, settings_of
from avrt.training.launch import read_config
from tests.conftest import avrt

STUDENT = "nano/student"
ON_CPU = ("--trainer.accelerator", "cpu", "--trainer.devices", 1, "--model.student.dtype", "float32",
          "--trainer.precision", "32-true", "--data.num_workers", 0)  # fmt: skip


def configured(*arguments):
    """Module and data module, and the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module, data, _ = read_config(resolve_configs([*map(str, arguments)]))
    return module, data, [str(one.message) for one in told if "asked otherwise" in str(one.message)]


def test_a_student_asked_by_the_packaged_settings_answers_as_trained(world, tmp_path):
    """Neither wording nor frame size is given; the answer reads as in its traces, and the run's record has both."""
    clip = next((world / "clips" / "val").glob("*.mp4"))
    done = avrt(
        "predict", "--config", "sft.yaml", *ON_CPU, "--model.student.source", STUDENT, "--trainer.default_root_dir",
        tmp_path, "--data.ask.clip", clip, "--data.ask.question", "Which option matches the clip?",
        "--data.ask.choices",
        '["red ball with low hum", "green box with low hum", "red ball with steady hiss", "white ring with low hum"]',
        "--trainer.logger", "false",
    )  # fmt: skip
    [record] = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert record["well_formed"]
    assert record["responses"][0].startswith("<think>The frames show a ")
    assert "as in the student's training" in done.stdout + done.stderr
    assert "asked otherwise" not in done.stdout + done.stderr


def test_what_is_set_wins_and_is_named(world):
    ours = settings_of(STUDENT)
    base = ("--config", "grpo.yaml", *ON_CPU, "--model.student.source", STUDENT)
    module, data, told = configured(*base)
    assert data.prompt == ours.prompt
    assert module.generation.max_new_tokens == 512, "a fit keeps its limits"
    assert not told
    # also where it is set to what would have been there without the student
    _, data, [warning] = configured(
        *base, "--data.prompt.instruction", "Say: why?", "--data.prompt.audio_in_video", "false", "--data.train",
        world / "train",
    )  # fmt: skip
    assert (data.prompt.instruction, data.prompt.audio_in_video, data.prompt.system_prompt) == ("Say: why?", False, "")
    assert "data.prompt.instruction is 'Say: why?', in training 'First think, then answer.'" in warning
    assert "data.prompt.audio_in_video is False, in training True" in warning
    assert warning.count(" in training ") == 2
    _, data, _ = configured("--config", "grpo.yaml", *ON_CPU, "--model.student.source", "nano")
    assert data.prompt.instruction != ours.prompt.instruction, "a model without settings is asked in our words"


def test_shards_of_other_frames_are_named(world, tmp_path):
    manifest = json.loads((world / "train" / "manifest.json").read_text())
    manifest["spec"]["frames"] = 4
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    _, _, [warning] = configured(
        "--config", "grpo.yaml", *ON_CPU, "--model.student.source", STUDENT, "--data.train", tmp_path
    )
    assert warning.endswith(f"frames of {tmp_path} is 4, in training {ClipSpec().frames}")


def test_a_benchmark_records_what_it_took_from_the_student(world, tmp_path):
    avrt(
        "test", "--config", "avqa.yaml", *ON_CPU, "--model.student.source", STUDENT, "--data.test", world / "test",
        "--trainer.default_root_dir", tmp_path,
    )  # fmt: skip
    result = Result.load(tmp_path / "result.json")
    assert result.protocol["prompt.instruction"] == "First think, then answer."
    assert yaml.safe_load(result.config)["data"]["prompt"]["system_prompt"] == ""
    assert result.scores["strict"]["accuracy"] > 0.6


def test_settings_that_cannot_be_read_end_the_command(tmp_path):
    (tmp_path / SETTINGS).write_text('{"format": 9}')
    with pytest.raises(AvrtError, match="does not say how this student is asked: format 9"):
        configured("--config", "grpo.yaml", "--model.student.source", tmp_path)
