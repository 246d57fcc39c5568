"""Qwen3-Omni's towers as transformers runs them, and what of them reaches the decoder's layers."""

from dataclasses import replace

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.qwen3_omni.towers import encode_clips, encode_sounds
from tests.conftest import make_sample


@pytest.fixture(scope="module")
def batch(qwen3, clip):
    """Video with sound, a picture with a short sound, text, and sound of 17 s: more than a window of attention."""
    builder = Preprocessor(qwen3.inputs, PromptOptions(audio_in_video=True), targets=True)
    long = torch.randn(17 * 16_000, generator=torch.Generator().manual_seed(2)) * 0.1
    media = [
        (("video", "audio"), clip),
        (("image", "audio"), Clip(image=clip.frames[2], audio=clip.audio[:9_000])),
        ((), Clip()),
        (("audio",), Clip(audio=long)),
    ]
    return collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])


def test_features_are_those_of_transformers(qwen3, batch):
    """All pictures together, all sounds together; each as transformers encodes it by itself, deepstack included."""
    features = qwen3.encode(batch).features
    assert [f is None for f in features.vision] == [False, False, True, True]
    assert [f is None for f in features.audio] == [False, False, True, False]
    sizes = batch.grids.prod(-1).tolist()
    for pixels, grid, row in zip(batch.pixel_values.split(sizes), batch.grids, batch.grid_rows, strict=True):
        with torch.no_grad():
            stock = qwen3.model.get_video_features(pixels, grid[None])
        expected = torch.cat([stock.pooler_output[0], *(f[0] for f in stock.deepstack_features)], dim=-1)
        assert expected.shape[1] == 3 * 128
        assert torch.allclose(features.vision[row], expected, atol=2e-6)
    for mel, length, row in zip(batch.mel, batch.mel_lengths.tolist(), batch.mel_rows, strict=True):
        with torch.no_grad():
            stock = qwen3.model.get_audio_features(mel[None, :, :length], torch.ones(1, length, dtype=torch.long))
        assert torch.allclose(features.audio[row], stock.last_hidden_state, atol=2e-6)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_short_sound_is_encoded_as_by_itself(qwen3, at_once, monkeypatch):
    """Whatever is beside it, also in several parts; at once each convolution is called once, for much sound too."""
    tower = qwen3.model.model.audio_tower
    lengths = [50, 300, 99, 1, 8]
    mel = torch.randn(len(lengths), tower.config.num_mel_bins, 300, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(tower, "conv_chunksize", 2)
    calls = []
    hook = tower.conv2d2.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found = encode_sounds(tower, mel, lengths, at_once=at_once)
        assert len(calls) == (1 if at_once else 4)
        hook.remove()
        for sound, length, features in zip(mel, lengths, found, strict=True):
            stock = qwen3.model.get_audio_features(sound[None, :, :length], torch.ones(1, length, dtype=torch.long))
            assert torch.allclose(features, stock.last_hidden_state, atol=2e-6), length
    assert tower.conv_chunksize == 2


def test_towers_run_once_where_ranks_keep_in_step(qwen3, batch):
    calls = []
    hooks = [
        tower.register_forward_hook(lambda module, given, output: calls.append(type(module).__name__))
        for tower in qwen3.family.towers(qwen3.model)
    ]
    try:
        with torch.no_grad():
            for rows in (batch, collate([Preprocessor(qwen3.inputs, PromptOptions()).row(make_sample(), Clip())])):
                encode_clips(qwen3.model, rows, run_on_empty=True)
                assert sorted(calls) == ["Qwen3OmniMoeAudioEncoder", "Qwen3OmniMoeVisionEncoder"]
                calls.clear()
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("packed", [True, False])
def test_what_layers_add_reaches_scoring(qwen3, batch, packed):
    """The features behind the first H numbers are read, by packed rows and by padded ones, each where it belongs."""
    prompts = qwen3.encode(batch)
    completions = [torch.arange(20, 29)] * len(batch)
    qwen3.share_prefix = packed
    try:
        with torch.no_grad():
            right = qwen3.logprobs(prompts, completions)
            for change in (
                lambda v: torch.cat([v[:, :128], torch.zeros_like(v[:, 128:])], dim=1),  # left out
                lambda v: torch.cat([v[:, :128], v[:, 128:].flip(0)], dim=1),  # at other tokens
                lambda v: torch.cat([v[:, :128], v[:, 256:], v[:, 128:256]], dim=1),  # behind other layers
            ):
                vision = [None if v is None else change(v) for v in prompts.features.vision]
                other = replace(prompts, features=ClipFeatures(vision, prompts.features.audio))
                apart = (qwen3.logprobs(other, completions).logprobs - right.logprobs).abs()
                seen = torch.isin(right.completion_index, torch.tensor([0, 1]))
                assert apart[seen].max() > 1e-3
                assert apart[~seen].max() < 1e-6
    finally:
        qwen3.share_prefix = True


def test_experts_are_run_by_one_product_and_their_gradients_are_those_of_the_loop(qwen3):
    assert qwen3.model.get_experts_implementation()["text_config"] == "grouped_mm"
    layer = qwen3.decoder.language_model.layers[0].mlp
    config, found = layer.experts.config, []
    given = torch.randn(1, 37, 128, generator=torch.Generator().manual_seed(3))
    for name in ("grouped_mm", "eager"):
        qwen3.model.set_experts_implementation({"text_config": name})
        output = layer(given)
        found.append([output, *torch.autograd.grad((output * given.flip(1)).sum(), list(layer.parameters()))])
    qwen3.model.set_experts_implementation({"text_config": "grouped_mm"})
    assert config.num_experts == 4
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, atol=1e-5)
