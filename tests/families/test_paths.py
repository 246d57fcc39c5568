"""One policy by every path: encoded once, packed, padded, sampled, scored, and as transformers runs the model."""

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.models.feature_cache import FeatureCacheOptions
from avrt.policy.parity import check_parity
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions
from avrt.rollout.sampling import SamplingOptions
from tests.families.conftest import FORMS, NANO, forms_of, nano_options

SIZES = (3, 9, 1, 14)


def drawn(student, prompts, sizes=SIZES):
    """Completions of random tokens, `sizes` long, for each prompt."""
    generator = torch.Generator().manual_seed(1)
    most = min(900, student.decoder.language_model.config.vocab_size)
    return [torch.randint(20, most, (size,), generator=generator) for _ in range(len(prompts)) for size in sizes]


def test_every_form_agrees_with_transformers(student, forms):
    """Positions, sampling, scoring, reference, and a plain forward pass of transformers with media of its own."""
    for sampling in (SamplingOptions(max_new_tokens=6), SamplingOptions(max_new_tokens=6, decoding="static")):
        checks = check_parity(student, forms.together, sampling, 2, 2e-5)
        print({check.name: check.difference for check in checks})
        assert all(check.passed for check in checks), checks
    assert set(forms.rows) >= set(FORMS[1:])


def test_greedy_completions_are_those_of_generate(student, forms):
    """Token by token, several completions of a prompt reading one cache of it, prompts decoded together."""
    batch = forms.together
    found = {
        decoding: student.generate(
            student.encode(batch), SamplingOptions(max_new_tokens=16, temperature=0.0, decoding=decoding),
            seeds=[0] * 2 * len(batch), group_size=2,
        )
        for decoding in ("dynamic", "static")
    }  # fmt: skip
    for i, form in enumerate(forms.rows):
        ids = batch.prompt_ids[i][None]
        media = student.family.stock_media(student.model, student.inputs.processor, batch, i)
        expected = student.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False,
            eos_token_id=student.inputs.end_token_id,
            **{name: value for name, value in media.items() if value is not None},
        )[0, ids.shape[1] :]  # fmt: skip
        # Behind a media placeholder that the policy samples, transformers looks for its media or takes it for padding.
        sampled = torch.isin(expected, torch.tensor([token for kind in student.inputs.placeholders for token in kind]))
        compared = int(sampled.nonzero()[0]) + 1 if sampled.any() else None
        for completions in found.values():
            for completion in completions[2 * i : 2 * i + 2]:
                assert completion.token_ids.tolist()[:compared] == expected.tolist()[:compared], form


def test_packed_groups_are_padded_rows_in_values_and_gradients(student, forms):
    batch, values, gradients = forms.together, [], []
    prompts = student.encode(batch)
    completions = drawn(student, prompts)
    weights = torch.randn(sum(map(len, completions)), generator=torch.Generator().manual_seed(2))
    trained = [p for p in student.parameters() if p.requires_grad]
    for share in (True, False):
        student.share_prefix = share
        try:
            scores = student.logprobs(prompts, completions)
        finally:
            student.share_prefix = True
        values.append(scores.logprobs.detach())
        found = torch.autograd.grad((scores.logprobs * weights).sum(), trained, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)])
    largest = max(float(g.abs().max()) for g in gradients[1])
    apart = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    print("values", float((values[0] - values[1]).abs().max()), "gradients", apart / largest)
    assert torch.allclose(*values, atol=2e-5)
    assert apart < 2e-5 * largest
    assert sum(bool(g.any()) for g in gradients[0]) > 0.9 * len(trained)


def test_recomputed_layers_have_the_same_gradients(student, forms):
    other = load_policy(nano_options(student.options.source, gradient_checkpointing=True))
    batch = collate([forms.rows["video and sound"], forms.rows["sound"]])
    found = []
    for policy in (student, other):
        policy.train()
        loss = policy.logprobs(policy.encode(batch), drawn(policy, batch, (3, 9))).logprobs.sum()
        found.append(torch.autograd.grad(loss, [p for p in policy.parameters() if p.requires_grad], allow_unused=True))
    student.eval()
    for one, again in zip(*found, strict=True):
        assert (one is None) == (again is None)
        assert one is None or torch.allclose(one, again, atol=1e-5 * float(one.abs().max() + 1))


@pytest.mark.parametrize("source", NANO)
def test_features_of_the_cache_are_those_of_the_towers(source, clip, tmp_path):
    cached = load_policy(nano_options(source, feature_cache=FeatureCacheOptions(str(tmp_path))))
    batch = forms_of(cached, clip).together
    first, again = cached.encode(batch).features, cached.encode(batch).features
    assert cached.cache.hits >= cached.cache.misses > 0
    for kind in ("vision", "audio"):
        for one, other in zip(getattr(first, kind), getattr(again, kind), strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("source", NANO)
def test_adapters_move_the_policy_and_not_the_reference(source, clip):
    pytest.importorskip("peft")
    adapted = load_policy(nano_options(source, lora=LoraOptions(rank=4)))
    batch = forms_of(adapted, clip).rows["video and sound"]
    prompts, completions = adapted.encode(batch), drawn(adapted, [0])
    reference = Reference(adapted)
    before = reference.logprobs(prompts, completions).logprobs
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
        assert torch.equal(reference.logprobs(prompts, completions).logprobs, before)
        assert not torch.allclose(adapted.logprobs(prompts, completions).logprobs, before, atol=1e-2)


def test_a_sense_that_is_masked_takes_no_part(student, clip):
    whole = forms_of(student, clip).rows["video and sound"]
    deaf, blind = (forms_of(student, clip.part(sense)).rows for sense in ("vision", "audio"))
    assert len(deaf["video"].prompt_ids[0]) < len(whole.prompt_ids[0]) > len(blind["sound"].prompt_ids[0])
    assert deaf["video"].mel is None
    assert blind["sound"].pixels is None
