"""What a trained checkpoint is good for: exported, tested, asked, and trained further."""

import json

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.training.trained_policy import policy_from_checkpoint
from tests.conftest import avrt
from tests.training.runs import SMALL, fit


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("sft")
    fit("sft", world, root, *SMALL, "--data.batch_size", 8, "--trainer.max_steps", 3)
    return root / "checkpoints" / "step-000003.ckpt"


def test_export_has_the_logits_of_the_checkpoint_and_can_be_tested_and_asked(checkpoint, world, tmp_path):
    avrt("export", "--ckpt_path", checkpoint, "--out", tmp_path / "model")
    student = policy_from_checkpoint(checkpoint)
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "model")
    ids = torch.arange(20, 90)[None]
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for m in (student.model, loaded))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    nano = ("--config", "sft.yaml", "--config", "nano/sft.yaml", "--trainer.logger", "false", "--data.num_workers", 0)
    answers = {}
    for name, extra in {
        "checkpoint": ("--ckpt_path", checkpoint),
        "export": ("--model.student.source", tmp_path / "model"),
        "two": ("--model.student.source", tmp_path / "model", "--trainer.devices", 2, "--data.eval_batch_size", 3),
    }.items():
        root = tmp_path / name
        avrt("test", *nano, *extra, "--data.test", world / "test", "--trainer.default_root_dir", root)
        answers[name] = [json.loads(line) for line in (root / "predictions.jsonl").read_text().splitlines()]
        assert len(answers[name]) == 8
    assert answers["checkpoint"] == answers["export"] == answers["two"]
    clip = next((world / "clips" / "test").glob("*.mp4"))
    asked = avrt(
        "predict", *nano, "--model.student.source", tmp_path / "model", "--trainer.default_root_dir", tmp_path / "ask",
        "--data.ask.clip", clip, "--data.ask.question", "What is seen?", "--data.ask.choices", '["a ball", "a box"]',
        "--data.ask.spec.budget.min_pixels", 3136, "--data.ask.spec.budget.max_pixels", 3136,
    )  # fmt: skip
    assert "What is seen?" in asked.stdout
    [line] = (tmp_path / "ask" / "predictions.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["index"], record["answer"], record["correct"], record["rewards"]) == (-1, None, None, None)
    assert len(record["responses"]) == len(record["finished"]) == 1
