"""A minute at two frames a second with its sound, beside shorter clips: from files to answers and to training steps."""

import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from avrt.commands import shards as shards_command
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.evaluation.result import Result
from tests.conftest import avrt, make_clip
from tests.training.runs import fit

LENGTHS = {"minute": 60, "half": 31, "brief": 1}
NANO = ("--config", "avqa.yaml", "--config", "nano/benchmark.yaml", "--data.num_workers", 0)


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory):
    """Videos of three lengths, a sound of 75 s and a large still with sound, as questions of one's own."""
    root = tmp_path_factory.mktemp("long")
    rows = []
    for name, seconds in LENGTHS.items():
        make_clip(
            root / f"{name}.mp4", frames=5 * seconds, fps=5, sound_seconds=seconds, rate=16_000, layout="mono",
        )  # fmt: skip
        rows.append({"id": name, "media": f"{name}.mp4"})
    hum = 0.3 * np.sin(np.arange(75 * 16_000) / 20)
    soundfile.write(root / "sound.wav", hum, 16_000)
    Image.new("RGB", (640, 480), "green").save(root / "still.png")
    rows += [{"id": "sound", "media": "sound.wav"}, {"id": "still", "image": "still.png", "audio": "sound.wav"}]
    question = {"question": "What is it?", "choices": ["a dog", "a drum"], "answer": "B"}
    trace = "<think>The drum is heard.</think><answer>B</answer>"
    lines = [json.dumps({**question, **row, "trace": trace}) + "\n" for row in rows]
    (root / "questions.jsonl").write_text("".join(lines))
    sizes = ("--min_pixels", "3136", "--max_pixels", "3136", "--still_max_pixels", "12544")
    shards_command.main(
        ["folder", "--root", str(root), "--out", str(root / "train"), "--workers", "1", "--fps", "2", *sizes]
    )
    return root


def row_of(nano, shards, name):
    index = [sample.id for sample in shards.samples()].index(name)
    builder = Preprocessor(nano.inputs, PromptOptions(audio_in_video=True, system_prompt=""))
    return builder.row(*decode_members(shards.read(index)))


@pytest.mark.parametrize("name", LENGTHS)
def test_tokens_and_positions_are_those_of_transformers(nano, long_clips, name):
    """Its processor's sound features and interleaved tokens, and its `get_rope_index`."""
    row = row_of(nano, ShardSet(long_clips / "train"), name)
    clip, frames = row.clips[0], max(4, 2 * LENGTHS[name])
    assert len(clip.frames) == frames
    assert clip.seconds_per_frame == pytest.approx(LENGTHS[name] / frames)
    assert len(clip.audio) / 16_000 == pytest.approx(LENGTHS[name], abs=0.1)
    grid, per_grid = row.grids, 2 * clip.seconds_per_frame
    mel = nano.inputs.processor.feature_extractor(
        clip.audio.numpy(), sampling_rate=16_000, padding="max_length", max_length=300 * 16_000,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    length = int(mel["attention_mask"].sum())
    assert torch.equal(mel["input_features"][0, :, :length], row.mel[0])
    _, heard = nano.model.model.audio_tower._get_feat_extract_output_lengths(torch.tensor([length]))
    media = nano.inputs.processor.replace_video_with_audio_token(
        {"video_grid_thw": grid, "video_second_per_grid": [per_grid]}, 0, {"num_audio_tokens": heard.tolist()}, 0,
        position_id_per_seconds=25, seconds_per_chunk=2.0,
    )  # fmt: skip
    tokens = row.prompt_ids[0]
    assert f"<|vision_bos|>{media}<|vision_eos|>" in nano.inputs.processor.tokenizer.decode(tokens)
    expected, _ = nano.model.get_rope_index(
        tokens[None], None, grid, torch.ones(1, len(tokens)), True, torch.tensor([length]), torch.tensor([per_grid])
    )
    assert torch.equal(expected[:, 0], row.prompt_positions[0])


def test_a_minutes_positions_by_hand(nano, long_clips):
    """Sixty steps of a second, 25 positions each; sound alternates with them in stretches of two seconds."""
    row = row_of(nano, ShardSet(long_clips / "train"), "minute")
    tokens, positions = row.prompt_ids[0], row.prompt_positions[0]
    per_step = int(row.grids[0, 1:].prod()) // 4
    seen, heard = tokens == nano.inputs.ids.video, tokens == nano.inputs.ids.audio
    start = int(positions[0][seen][0])
    assert positions[0][seen].tolist() == [start + 25 * step for step in range(60) for _ in range(per_step)]
    assert int(heard.sum()) == pytest.approx(1500, abs=3)
    assert positions[0][heard].tolist() == [start + i for i in range(int(heard.sum()))]
    kinds = [bool(s) for s, h in zip(seen, heard, strict=True) if s or h]
    assert kinds[: 2 * per_step + 50 + 1] == [True] * 2 * per_step + [False] * 50 + [True]


def test_long_clips_are_asked_and_the_protocol_tells_how_they_were_taken(long_clips, tmp_path):
    avrt(
        "test", *NANO, "--model.generation.max_new_tokens", 4, "--data.eval_batch_size", 5,
        "--data.test", long_clips / "train", "--trainer.default_root_dir", tmp_path,
    )  # fmt: skip
    result = Result.load(tmp_path / "result.json")
    assert (result.counts["questions"], result.counts["failed"], result.counts["audio_cut"]) == (5, 0, 0)
    told = {name.removeprefix("clips."): v for name, v in result.protocol.items() if name.startswith("clips.")}
    assert told == {
        "frames": 8, "fps": 2.0, "max_frames": 768, "audio_seconds": None, "total_pixels": None, "patch_size": 28,
        "budget.min_pixels": 3136, "budget.max_pixels": 3136,
        "still_budget.min_pixels": 3136, "still_budget.max_pixels": 12_544,
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_long_clips_are_trained_on(long_clips, tmp_path, stage):
    common = ("--data.batch_size", 5, "--trainer.max_steps", 1, "--data.num_workers", 0)
    if stage == "grpo":
        common = (*common, "--model.group_size", 2, "--model.rollout.max_new_tokens", 4)
    steps = fit(stage, long_clips, tmp_path, *common)
    assert len(steps) == 1
    assert not next(iter(steps.values())).get("train/skipped_samples")
