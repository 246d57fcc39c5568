"""Every path through Gemma 4's decoder equals transformers' plain forward pass and `generate`, beyond the window."""

import pytest
import torch

from avrt.models import attention as attention_module
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.gemma4.stock import logprobs, media_arguments
from avrt.policy.parity import check_parity
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from tests.models.gemma4.conftest import WINDOW
from tests.models.varlen_on_cpu import varlen_on_cpu

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
    """As far as no placeholder is sampled, which transformers reads as padding."""
    placeholders, compared = {i for ids in gemma.inputs.placeholders for i in ids}, 0
    sampling = SamplingOptions(temperature=0.0, max_new_tokens=LONG, decoding=decoding)
    found = gemma.generate(gemma.encode(gemma_batch), sampling, seeds=[0] * len(gemma_batch), ignore_eos=True)
    for row in (0, 1, 4):
        ids = gemma_batch.prompt_ids[row][None]
        stock = gemma.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LONG,
            min_new_tokens=None, eos_token_id=-1, **media_arguments(gemma.model, gemma_batch, row),
        )  # fmt: skip
        own = found[row].token_ids.tolist()
        until = next((i + 1 for i, token in enumerate(own) if token in placeholders), LONG)
        assert own[:until] == stock[0, ids.shape[1] :].tolist()[:until]
        compared += until
    assert compared > 2 * LONG


def test_narrow_heads_decode_by_the_kernel_and_wide_ones_by_products(gemma, gemma_batch):
    """Beyond the window, with groups, in slots that are filled again."""
    prompts, seeds = gemma.encode(gemma_batch), list(range(2 * len(gemma_batch)))
    plain = SamplingOptions(max_new_tokens=LONG, decoding="dynamic")
    expected = gemma.generate(prompts, plain, seeds=seeds, group_size=2, ignore_eos=True)
    fixed = SamplingOptions(max_new_tokens=LONG, decoding="static", prompts_at_once=2)
    policy = load_policy(StudentOptions(source="nano-gemma4", dtype="float32"))  # whose buffers are made here
    with varlen_on_cpu(widest=32) as calls:
        found = policy.generate(prompts, fixed, seeds=seeds, group_size=2, ignore_eos=True)
    # four of six layers, and two calls in each: over two prompts and over four rows
    assert len(calls) >= 2 * 4 * LONG
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert torch.allclose(one.logprobs, other.logprobs, atol=1e-5)


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


def test_a_sampled_placeholder_is_a_token_like_any_other(gemma, gemma_batch, monkeypatch):
    """Packed, padded and decoded alike; it is not read as padding, which transformers would do."""
    image, pad = gemma.inputs.processor.image_token_id, gemma.model.config.text_config.pad_token_id
    prompts, seeds = gemma.encode(gemma_batch), range(8 * len(gemma_batch))
    table = gemma.decoder.language_model.embed_tokens_per_layer
    with torch.no_grad():
        for decoding in ("dynamic", "static"):
            sampling = SamplingOptions(max_new_tokens=40, decoding=decoding)
            drawn = gemma.generate(prompts, sampling, seeds=list(seeds), group_size=8, ignore_eos=True)
            completions = [completion.token_ids for completion in drawn]
            assert any(image in ids[:-1] for ids in completions)
            recorded = torch.cat([completion.logprobs for completion in drawn])
            packed = gemma.logprobs(prompts, completions).logprobs
            assert (packed - recorded).abs().max() < 1e-5, decoding
        monkeypatch.setattr(gemma, "share_prefix", False)
        assert (gemma.logprobs(prompts, completions).logprobs - packed).abs().max() < 1e-5
        as_padding = table.register_forward_pre_hook(lambda _, ids: (ids[0].masked_fill(ids[0] == image, pad),))
        try:
            padding = gemma.logprobs(prompts, completions).logprobs
        finally:
            as_padding.remove()
        assert (padding - packed).abs().max() > 1e-3


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


def test_prompts_in_any_company_are_the_same(gemma, gemma_batch):
    prompts = gemma.encode(gemma_batch)
    turned = EncodedPrompts.join([prompts.rows([i]) for i in (4, 2, 0)])
    completions = sampled(gemma_batch, 1, 6)
    with torch.no_grad():
        scores = gemma.logprobs(turned, [completions[i] for i in (4, 2, 0)]).logprobs
        alone = [gemma.logprobs(prompts.rows([i]), [completions[i]]).logprobs for i in (4, 2, 0)]
    assert (scores - torch.cat(alone)).abs().max() < 1e-5
