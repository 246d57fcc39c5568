"""Exported folders load in transformers, in both layouts, and give the same logits."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from avrt.errors import AvrtError
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.training.trained_policy import policy_from_checkpoint


def logits(thinker, ids):
    return thinker(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("full_layout", [False, True])
def test_round_trip(nano, tmp_path, full_layout):
    export_policy(nano, tmp_path, full_layout=full_layout)
    loaded, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), nano.parameters(), strict=True))
    ids = torch.arange(20, 60)[None]
    torch.testing.assert_close(logits(loaded, ids), logits(nano.model, ids), atol=1e-5, rtol=0)
    processor = Qwen2_5OmniProcessor.from_pretrained(tmp_path)
    text = "<think>The frames show a box.</think>"
    assert processor.tokenizer.encode(text) == nano.inputs.processor.tokenizer.encode(text)
    again = load_policy(StudentOptions(source=str(tmp_path), dtype="float32"))
    assert again.inputs.ids == nano.inputs.ids
    with pytest.raises(AvrtError, match="already holds a model"):
        export_policy(nano, tmp_path)


def test_full_layout_is_that_of_the_released_checkpoints(nano, tmp_path):
    export_policy(nano, tmp_path, full_layout=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    assert config["thinker_config"]["text_config"]["tie_word_embeddings"] is False
    assert all(name.startswith("thinker.") for name in load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_export_in_another_type_rounds_weights_and_no_buffers(tmp_path, dtype):
    student = load_policy(StudentOptions(source="nano", dtype="float32"))
    expected = {name: buffer.clone() for name, buffer in student.named_buffers()}
    export_policy(student, tmp_path, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert all(torch.equal(buffer, expected[name]) for name, buffer in student.named_buffers())
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    ids = torch.arange(20, 60)[None]
    assert torch.equal(logits(loaded, ids), logits(student.model, ids))


def test_incomplete_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(AvrtError, match="not a complete checkpoint"):
        policy_from_checkpoint(tmp_path)
