"""Loading, freezing, adapters and the reference."""

import pytest
import torch

from avrt.errors import AvrtError
from avrt.models.scoring import Prompts, response_states
from avrt.policy.policy import LoraOptions, StudentOptions, load_policy


def nano_options(**changes):
    return StudentOptions(**{"source": "nano", "dtype": "float32", **changes})


def logits(student, batch, text=None):
    prompts = Prompts(batch.prompt_ids, batch.prompt_positions, student.encode(batch))
    text = text or student.text
    return text.lm_head(response_states(text, prompts, batch.response_ids).hidden)


def test_only_the_text_model_is_trained(nano):
    trained = {name for name, p in nano.named_parameters() if p.requires_grad}
    assert all(name.startswith(("thinker.model.language_model.", "thinker.lm_head.")) for name in trained)
    towers = [*nano.thinker.model.visual.parameters(), *nano.thinker.model.audio_tower.parameters()]
    assert towers
    assert not any(p.requires_grad for p in towers)
    assert 1_000_000 < sum(p.numel() for p in nano.parameters()) < 3_000_000


def test_towers_stay_in_evaluation_mode(nano):
    was = nano.training
    nano.train()
    assert nano.thinker.model.language_model.training
    assert not nano.thinker.model.visual.training
    assert not nano.thinker.model.audio_tower.training
    nano.train(was)


def test_same_seed_same_weights_and_global_random_state_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = load_policy(nano_options()), load_policy(nano_options())
    assert torch.equal(before, torch.get_rng_state())
    other = load_policy(nano_options(seed=1))
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(one.thinker.lm_head.weight, other.thinker.lm_head.weight)


def test_reference_is_a_frozen_copy(batch):
    student = load_policy(nano_options())
    reference = student.make_reference()
    before = logits(student, batch)
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    with student.reference_policy(reference) as text:
        after = logits(student, batch, text)
    assert torch.equal(before, after)
    assert not torch.allclose(logits(student, batch), before)
    assert not any(p.requires_grad for p in reference.parameters())


def test_lora_trains_adapters_and_the_reference_is_the_student_without_them(batch):
    pytest.importorskip("peft")
    student = load_policy(nano_options(lora=LoraOptions(rank=4)))
    plain = load_policy(nano_options())
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name and "language_model" in name for name in trained)
    assert student.make_reference() is None
    with torch.no_grad():
        for name, p in student.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    adapted = logits(student, batch)
    expected = logits(plain, batch)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    with student.reference_policy(None) as text:
        assert torch.allclose(logits(student, batch, text), expected, atol=1e-6)
    assert torch.allclose(logits(student, batch), adapted)  # and the adapters are back


def test_gradient_checkpointing_changes_nothing(batch):
    gradients = []
    for checkpointing in (False, True):
        student = load_policy(nano_options(gradient_checkpointing=checkpointing)).train()
        logits(student, batch).square().mean().backward()
        gradients.append(student.thinker.model.language_model.layers[0].mlp.up_proj.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)


@pytest.mark.parametrize(
    ("source", "message"), [("./no/such/folder", "no such folder"), ("somebody/unreachable-model", "cannot be loaded")]
)
def test_unusable_source_is_one_clear_error(source, message):
    with pytest.raises(AvrtError, match=message) as caught:
        load_policy(StudentOptions(source=source))
    assert "\n" not in str(caught.value)
