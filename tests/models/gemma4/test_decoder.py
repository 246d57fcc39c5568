"""Every path through Gemma 4's decoder equals transformers' plain forward pass and `generate`, beyond the window."""

import pytest
import torch

from avrt.models import attention as attention_module
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.gemma4.stock import logprobs, media_arguments
from avrt.policy.parity import check_parity
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.sampling import SamplingOptions
from tests.models.gemma4.conftest import WINDOW

LONG = WINDOW + 20
"""Completions reach further than the window, so that layers lose sight of the whole prompt."""


def sampled(batch, group_size, length=LONG):
    """Completions of words alone, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    count = len(batch) * group_size
    return [torch.randint(20, 800, (length - i % 7,), generator=generator) for i in range(count)]


@pytest.mark.parametrize("decoding", ["dynamic", "static", "copies"])
def test_sampling_scoring_and_transformers_agree(gemma, gemma_batch, decoding, monkeypatch):
    monkeypatch.setattr(gemma, "share_prefix", decoding != "copies")
    sampling = SamplingOptions(max_new_tokens=LONG, decoding="dynamic" if decoding == "copies" else decoding)
    checks = check_parity(gemma, gemma_batch, sampling, 2, 1e-5)
    assert all(check.passed for check in checks), checks


@torch.no_grad()
def test_packed_rows_need_the_window(gemma, gemma_batch, monkeypatch):
    """Without it the packed path is another model."""
    completions = sampled(gemma_batch, 1)
    expected = torch.cat([logprobs(gemma.model, gemma_batch, i, c) for i, c in enumerate(completions)])
    prompts = gemma.encode(gemma_batch)
    assert (gemma.logprobs(prompts, completions).logprobs - expected).abs().max() < 1e-5
    packed = attention_module.packed_attention

    def blind(query, key, value, row, scale, window=None):
        return packed(query, key, value, row, scale)

    monkeypatch.setattr(attention_module, "packed_attention", blind)
    assert (gemma.logprobs(prompts, completions).logprobs - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_greedy_answers_equal_generate(gemma, gemma_batch, decoding):
    sampling = SamplingOptions(temperature=0.0, max_new_tokens=LONG, decoding=decoding)
    found = gemma.generate(gemma.encode(gemma_batch), sampling, seeds=[0] * len(gemma_batch), ignore_eos=True)
    for row in (0, 1, 4):
        ids = gemma_batch.prompt_ids[row][None]
        stock = gemma.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LONG,
            min_new_tokens=None, eos_token_id=-1, **media_arguments(gemma.model, gemma_batch, row),
        )  # fmt: skip
        assert found[row].token_ids.tolist() == stock[0, ids.shape[1] :].tolist()


def test_layers_share_caches(gemma):
    """The last of each kind that has keys of its own serves those that have none."""
    decoder = gemma.decoder
    assert decoder.cache_of_layer == (0, 1, 2, 1, 1, 2)
    assert [(c.heads, c.width, c.window) for c in decoder.caches] == [(1, 32, WINDOW), (1, 32, WINDOW), (1, 64, None)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_gradients_equal_padded_ones(gemma_batch, checkpointing):
    """Also where layers that share keys and values are computed again in the backward pass."""
    completions, found = sampled(gemma_batch, 2, 9), {}
    policy = load_policy(
        StudentOptions(source="nano-gemma4", dtype="float32", gradient_checkpointing=checkpointing)
    ).train()
    for share in (True, False):
        policy.share_prefix = share
        policy.zero_grad()
        policy.logprobs(policy.encode(gemma_batch), completions).logprobs.sum().backward()
        found[share] = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    assert set(found[True]) == set(found[False]) == {n for n, p in policy.named_parameters() if p.requires_grad}
    assert not any("per_layer.weight" in name or "tower" in name or "embed_vision" in name for name in found[True])
    for name, gradient in found[True].items():
        scale = found[False][name].abs().max()
        assert (gradient - found[False][name]).abs().max() <= 2e-4 * scale, name


def test_a_sampled_placeholder_is_a_token_like_any_other(gemma, gemma_batch):
    """Packed, padded and decoded alike; it is not read as padding, which transformers would do."""
    prompts = gemma.encode(gemma_batch).rows([4])
    image = gemma.inputs.processor.image_token_id
    pad, end = gemma.model.config.text_config.pad_token_id, torch.tensor([30, 31])
    with torch.no_grad():
        one, other = (gemma.logprobs(prompts, [torch.cat([torch.tensor([t]), end])]).logprobs for t in (image, pad))
    assert (one[1:] - other[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("place", ["device", "host"])
def test_the_reference_shares_what_is_never_trained(gemma_batch, place):
    policy = load_policy(StudentOptions(source="nano-gemma4", dtype="float32"))
    prompts, completions = policy.encode(gemma_batch), sampled(gemma_batch, 1, 5)
    before = policy.logprobs(prompts, completions).logprobs.detach()
    reference = Reference(policy, place)
    table = policy.decoder.language_model.embed_tokens_per_layer
    copied = reference.decoder
    assert copied.language_model.embed_tokens_per_layer is table
    assert copied.lm_head.weight is copied.language_model.embed_tokens.weight
    assert copied.lm_head.weight is not policy.decoder.lm_head.weight
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    assert torch.equal(reference.logprobs(prompts, completions).logprobs, before)
    assert (policy.logprobs(prompts, completions).logprobs - before).abs().max() > 1e-3


def test_weights_for_another_engine_are_there_once_but_the_tied_one(gemma):
    names = [name for name, _ in gemma.released_weights()]
    own = {name for name, _ in gemma.model.named_parameters() if ".language_model." in name}
    # the projection is the embeddings' own weight, of which an engine may keep two copies
    assert sorted(names) == sorted({*own, "lm_head.weight"})
    trained = [name for name, _ in gemma.released_weights(everything=False)]
    assert set(names) - set(trained) == {"model.language_model.embed_tokens_per_layer.weight"}


def test_adapters_are_trained_alone(gemma_batch):
    places = {"decoder": "language_model", "projector": "model.embed_", "towers": "_tower"}
    lora = LoraOptions(rank=2, modules=tuple(places))
    policy = load_policy(StudentOptions(source="nano-gemma4", dtype="float32", lora=lora))
    policy.logprobs(policy.encode(gemma_batch), sampled(gemma_batch, 1, 4)).logprobs.sum().backward()
    trained = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert all(".lora_" in name for name in trained)
    assert all(any(place in name for name in trained) for place in places.values())


def test_prompts_in_any_company_are_the_same(gemma, gemma_batch):
    prompts = gemma.encode(gemma_batch)
    turned = EncodedPrompts.join([prompts.rows([i]) for i in (4, 2, 0)])
    completions = sampled(gemma_batch, 1, 6)
    with torch.no_grad():
        scores = gemma.logprobs(turned, [completions[i] for i in (4, 2, 0)]).logprobs
        alone = [gemma.logprobs(prompts.rows([i]), [completions[i]]).logprobs for i in (4, 2, 0)]
    assert (scores - torch.cat(alone)).abs().max() < 1e-5
