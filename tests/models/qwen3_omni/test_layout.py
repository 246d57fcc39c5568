"""Qwen3-Omni in the layout of the released checkpoints: each expert by itself, in files and for other engines."""

import torch
from safetensors import safe_open
from transformers import Qwen3OmniMoeForConditionalGeneration

from avrt.models.families import find_config
from avrt.policy.saving import export_policy


def test_what_is_released_is_what_another_engine_is_given(qwen3, tmp_path):
    export_policy(qwen3, tmp_path, full_layout=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    given = dict(qwen3.released_weights())
    encoders = ("thinker.visual.", "thinker.audio_tower.")
    assert given.keys() == {name for name in saved if not name.startswith(encoders)}
    assert "thinker.model.layers.3.mlp.experts.2.up_proj.weight" in given
    assert all(torch.equal(tensor, saved[name]) for name, tensor in given.items())
    whole, report = Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        found, expected = (m(input_ids=ids, attention_mask=torch.ones_like(ids)) for m in (whole.thinker, qwen3.model))
    assert torch.equal(found.logits, expected.logits)


def test_the_released_size_is_known_without_a_download():
    family, config, was_read = find_config("Qwen/Qwen3-Omni-30B-A3B-Instruct")
    model = family.empty_model(config)
    assert not was_read
    # counted over the tensors of the released files, by part
    count = {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in ("model", "lm_head")}
    assert count["lm_head"] == 152_064 * 2048
    experts = 48 * 128 * 3 * 768 * 2048
    attention = 48 * (2048 * (2 * 4096 + 2 * 512) + 2 * 128 + 2 * 2048 + 128 * 2048)
    text = sum(p.numel() for p in model.model.language_model.parameters())
    assert text == experts + attention + 152_064 * 2048 + 2048
