"""Which models are Gemma 4, which of them are refused, and what an export is."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from avrt.errors import AvrtError
from avrt.models.families import find_config, find_family
from avrt.models.gemma4.stock import media_arguments
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions


@torch.no_grad()
def test_an_export_is_a_model_of_transformers(gemma, gemma_batch, tmp_path):
    export_policy(gemma, tmp_path / "out", full_layout=True)
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", attn_implementation={"": "sdpa", "audio_config": "eager"}
    )
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.eot_token == "<turn|>"
    again = load_policy(StudentOptions(source=str(tmp_path / "out"), dtype="float32"))
    assert again.family.name == "Gemma 4"
    for row in (0, 1, 4):
        ids, media = gemma_batch.prompt_ids[row][None], media_arguments(gemma.model, gemma_batch, row)
        wanted = gemma.model(input_ids=ids, **media).logits
        # on the CPU our linear layers add up in another order (avrt/models/onednn.py)
        torch.testing.assert_close(model(input_ids=ids, **media).logits, wanted, atol=1e-4, rtol=0)
        assert torch.equal(again.model(input_ids=ids, **media).logits, wanted)


@pytest.mark.parametrize(
    ("part", "change", "what"),
    [
        ("", {"audio_config": None}, "no audio tower"),
        ("text_config", {"enable_moe_block": True, "num_experts": 2, "top_k_experts": 1}, "mixture of experts"),
        ("text_config", {"use_bidirectional_attention": "vision"}, "see those behind"),
        ("text_config", {"hidden_size_per_layer_input": 0}, "no per-layer inputs"),
    ],
)
def test_larger_models_are_refused_in_one_line(gemma, tmp_path, part, change, what):
    record = gemma.model.config.to_dict()
    (record[part] if part else record).update(change)
    (tmp_path / "config.json").write_text(json.dumps(record))
    for ask in (find_config, lambda source: load_policy(StudentOptions(source=source))):
        with pytest.raises(AvrtError, match=rf"{what}.*gemma-4-E2B-it") as raised:
            ask(str(tmp_path))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "decoder", "table"), [("E2B-it", 4.6, 2.35), ("E4B", 7.5, 2.82)], ids=["E2B", "E4B"]
)
def test_released_sizes_are_known_by_heart(source, decoder, table):
    """Billions of weights in the decoder, and of these in the table of per-layer inputs."""
    family, config, was_read = find_config(f"google/gemma-4-{source}")
    assert (family.name, was_read) == ("Gemma 4", False)
    made = family.decoder(family.empty_model(config))
    own = {id(p): p.numel() for part in (made.language_model, made.lm_head) for p in part.parameters()}
    assert round(sum(own.values()) / 1e9, 1) == decoder
    assert round(sum(p.numel() for part in made.frozen for p in part.parameters()) / 1e9, 2) == table


def test_the_nano_preset_is_small_and_always_the_same():
    family = find_family("nano-gemma4")
    one, other = (family.make_nano(0)[0] for _ in range(2))
    assert sum(p.numel() for p in one.parameters()) < 2e6
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
