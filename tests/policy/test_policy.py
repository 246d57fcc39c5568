"""Loading, freezing, adapters and the reference."""

import contextlib

import pytest
import torch

from avrt.errors import AvrtError
from avrt.models.teacher_forcing import completion_states
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions, StudentOptions


def nano_options(**changes):
    return StudentOptions(**{"source": "nano", "dtype": "float32", **changes})


def logits(policy, batch):
    states = completion_states(policy.decoder, policy.encode(batch), batch.completion_ids)
    return policy.decoder.lm_head(states.hidden_states)


def logprobs(scorer, policy, batch):
    with torch.no_grad():
        return scorer.logprobs(policy.encode(batch), batch.completion_ids).logprobs


def test_only_the_text_model_is_trained(nano):
    trained = {name for name, p in nano.named_parameters() if p.requires_grad}
    assert all(name.startswith(("model.model.language_model.", "model.lm_head.")) for name in trained)
    towers = [*nano.model.model.visual.parameters(), *nano.model.model.audio_tower.parameters()]
    assert towers
    assert not any(p.requires_grad for p in towers)
    assert 1_000_000 < sum(p.numel() for p in nano.parameters()) < 3_000_000


def test_towers_stay_in_evaluation_mode(nano):
    was = nano.training
    nano.train()
    assert nano.model.model.language_model.training
    assert not nano.model.model.visual.training
    assert not nano.model.model.audio_tower.training
    nano.train(was)


def test_same_seed_same_weights_and_global_random_state_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = load_policy(nano_options()), load_policy(nano_options())
    assert torch.equal(before, torch.get_rng_state())
    other = load_policy(nano_options(seed=1))
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(one.model.lm_head.weight, other.model.lm_head.weight)


def test_reference_is_a_frozen_copy(batch):
    student = load_policy(nano_options())
    reference = Reference(student)
    before = logprobs(student, student, batch)
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(before, logprobs(reference, student, batch))
    assert not torch.allclose(logprobs(student, student, batch), before)
    assert not any(p.requires_grad for p in reference.parameters())


def test_a_reference_on_the_host_says_the_same_and_is_no_part_of_the_module_tree(batch):
    student = load_policy(nano_options())
    on_device, on_host = Reference(student), Reference(student, "host")
    expected = logprobs(on_device, student, batch)
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(logprobs(on_host, student, batch), expected)
    assert list(on_host.parameters()) == [] == list(on_host.buffers())
    assert on_host.state_dict() == {}
    assert not any(p.requires_grad for p in on_host.decoder.language_model.parameters())
    on_host.to(torch.bfloat16)
    assert {p.dtype for p in on_host.decoder.lm_head.parameters()} == {torch.float32}
    with on_host.loaded():
        assert torch.equal(logprobs(on_host, student, batch), expected)
        assert torch.equal(logprobs(on_host, student, batch), expected)


def test_a_reference_on_the_host_follows_the_policys_device_and_comes_back_unchanged():
    student = load_policy(nano_options())
    reference = Reference(student, "host")
    decoder = reference.decoder
    before = {name: p.data_ptr() for name, p in decoder.language_model.named_parameters()}
    values = [p.clone() for p in decoder.language_model.parameters()]
    student.model.lm_head.to("meta")
    with contextlib.suppress(ZeroDivisionError), reference.loaded():
        tensors = [*decoder.language_model.parameters(), *decoder.language_model.buffers(), decoder.lm_head.weight]
        assert {t.device.type for t in tensors} == {"meta"}
        raise ZeroDivisionError
    assert {name: p.data_ptr() for name, p in decoder.language_model.named_parameters()} == before
    assert all(torch.equal(p, value) for p, value in zip(decoder.language_model.parameters(), values, strict=True))
    assert decoder.language_model.rotary_emb.inv_freq.device.type == "cpu"


def test_lora_trains_adapters_and_the_reference_is_the_student_without_them(batch):
    pytest.importorskip("peft")
    student = load_policy(nano_options(lora=LoraOptions(rank=4)))
    plain = load_policy(nano_options())
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    reference = Reference(student)
    assert list(reference.parameters()) == []
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    adapted = logprobs(student, student, batch)
    expected = logprobs(plain, plain, batch)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    assert torch.allclose(logprobs(reference, student, batch), expected, atol=1e-6)
    assert torch.allclose(logprobs(student, student, batch), adapted)  # and the adapters are back


def test_gradient_checkpointing_changes_nothing(batch):
    gradients = []
    for checkpointing in (False, True):
        student = load_policy(nano_options(gradient_checkpointing=checkpointing)).train()
        logits(student, batch).square().mean().backward()
        gradients.append(student.model.model.language_model.layers[0].mlp.up_proj.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)


@pytest.mark.parametrize(
    ("source", "message"), [("./no/such/folder", "no such folder"), ("somebody/unreachable-model", "cannot be loaded")]
)
def test_unusable_source_is_one_clear_error(source, message):
    with pytest.raises(AvrtError, match=message) as caught:
        load_policy(StudentOptions(source=source))
    assert "\n" not in str(caught.value)


def test_only_weights_are_rounded(nano):
    """RoPE's frequencies and other buffers stay as transformers loads them, whatever type the weights have."""
    rounded = load_policy(nano_options(dtype="bfloat16"))
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    expected = dict(nano.named_buffers())
    assert any("inv_freq" in name for name in expected)
    for name, buffer in rounded.named_buffers():
        assert buffer.dtype == torch.float32, name
        assert torch.equal(buffer, expected[name]), name


def test_adapters_have_the_type_that_deepspeed_trains_them_in():
    pytest.importorskip("peft")
    student = load_policy(nano_options(dtype="bfloat16", lora=LoraOptions(rank=4)))
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
