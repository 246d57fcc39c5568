"""Merging a think adapter into Audio Flamingo 3's architecture: it gives the logits of the adapted model."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration

from tests.conftest import avrt

AUDIO = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "num_mel_bins": 8}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
TARGETS = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def merge(*arguments, check=True):
    return avrt("traces", "merge_adapter", *arguments, check=check)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(12)[None]).logits


def release(folder, *, rslora=False):
    """A tiny release: a model of the real architecture, and a folder `think` with a trained adapter."""
    torch.manual_seed(0)
    model = AudioFlamingo3ForConditionalGeneration(AudioFlamingo3Config(audio_config=AUDIO, text_config=TEXT))
    model.save_pretrained(folder, max_shard_size="12KB")
    (folder / "processor_config.json").write_text('{"as": "it was"}')
    new = torch.randn(40, 16)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(new)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_rslora=rslora)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    adapted.save_pretrained(folder / "think")
    # in the names of the release's time, when the text model lay one hull deeper
    saved = load_file(folder / "think" / "adapter_model.safetensors")
    old = {name.replace("model.model.language_model.", "model.language_model.model."): w for name, w in saved.items()}
    assert old.keys() != saved.keys()
    save_file(old, folder / "think" / "adapter_model.safetensors")
    torch.save({"language_model.model.embed_tokens.weight": new}, folder / "think" / "non_lora_trainables.bin")
    return logits(adapted)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_merged_model_is_the_adapted_one(tmp_path, rslora):
    source, out = tmp_path / "af3", tmp_path / "merged"
    expected = release(source, rslora=rslora)
    told = merge(source, "--out", out).stdout
    base = AudioFlamingo3ForConditionalGeneration.from_pretrained(source)
    merged, info = AudioFlamingo3ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    assert (logits(base) - expected).abs().max() > 0.1
    # shards, names and all other files are the release's own
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(path.name for path in out.glob("*.safetensors")) == shards
    for name in shards:
        before, after = load_file(source / name), load_file(out / name)
        assert {key: (w.shape, w.dtype) for key, w in before.items()} == {
            key: (w.shape, w.dtype) for key, w in after.items()
        }
    for name in ("config.json", "processor_config.json", "model.safetensors.index.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    count = sum(len(load_file(source / name)) for name in shards)
    assert f"6 weights changed, 1 replaced, {count - 7} unchanged" in told


def spoil_names(folder):
    torch.save({"language_model.model.embed_tokenz.weight": torch.zeros(2)}, folder / "think/non_lora_trainables.bin")


def spoil_shape(folder):
    torch.save({"lm_head.weight": torch.zeros(41, 16)}, folder / "think/non_lora_trainables.bin")


def spoil_config(folder):
    path = folder / "think/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))


def spoil_bytes(folder):
    (folder / "think/non_lora_trainables.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def spoil_half(folder):
    path = folder / "think/adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: w for name, w in weights.items() if not name.endswith("0.self_attn.q_proj.lora_B.weight")}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_names, "has embed_tokenz.weight, which the model does not"),
        (spoil_shape, "lm_head.weight has shape (41, 16), in the model (40, 16)"),
        (spoil_config, "uses use_dora, which a plain LoRA does not"),
        (spoil_bytes, "cannot be read"),
        (spoil_half, "has one of the two factors"),
        (lambda folder: (folder / "think").rename(folder / "thought"), "has no folder think"),
        (lambda folder: (folder / "think/adapter_config.json").unlink(), "holds no adapter_config.json"),
    ],
)
def test_an_adapter_that_does_not_fit_writes_nothing(tmp_path, spoil, message):
    release(tmp_path / "af3")
    spoil(tmp_path / "af3")
    told = merge(tmp_path / "af3", "--out", tmp_path / "merged", check=False)
    assert told.returncode == 2
    assert message in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "merged").exists()


def test_a_folder_without_a_model_and_one_that_exists(tmp_path):
    (tmp_path / "af3").mkdir()
    assert "holds no *.safetensors" in merge(tmp_path / "af3", "--out", tmp_path / "m", check=False).stderr
    release(tmp_path / "af3")
    assert "exists already" in merge(tmp_path / "af3", "--out", tmp_path / "af3", check=False).stderr
