"""A policy's weights as a plain model's: adapters merged one layer at a time, and the policy stays as it was."""

import contextlib

import pytest
import torch

from avrt.policy.plain_weights import plain_weights
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import LoraOptions, StudentOptions

pytest.importorskip("peft")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def student_with_adapters(dtype="float32", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the adapters' own
        student = load_policy(StudentOptions("nano", dtype=dtype, lora=LoraOptions(rank=4, alpha=6), **options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return student


def scores(policy, batch):
    with torch.no_grad():
        return policy.logprobs(policy.encode(batch), batch.completion_ids).logprobs


def take_up(plain, weights):
    places = dict(plain.released_weights())
    with torch.no_grad():
        for name, tensor in weights:
            places[name].copy_(tensor)


def test_a_plain_model_with_the_changed_weights_is_the_adapted_policy(batch):
    student, plain = student_with_adapters(), load_policy(StudentOptions("nano", dtype="float32"))
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    changed = dict(student.released_weights(everything=False))
    layers = student.decoder.language_model.config.num_hidden_layers
    # vLLM takes up a layer's parameters together: the bias has to be there too.
    assert len([name for name in changed if name.endswith("weight")]) == layers * len(PROJECTIONS)
    assert {name for name in changed if name.endswith("bias")} == {
        f"thinker.model.layers.{i}.self_attn.{p}_proj.bias" for i in range(layers) for p in "qkv"
    }
    assert list(dict(student.released_weights())) == list(dict(plain.released_weights()))
    expected = scores(student, batch)
    assert (scores(plain, batch) - expected).abs().max() > 0.01
    take_up(plain, changed.items())
    assert torch.allclose(scores(plain, batch), expected, atol=1e-5)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_merged_weights_are_rounded_once():
    student = student_with_adapters("bfloat16")
    layer = student.decoder.language_model.layers[1].mlp.up_proj
    down, up = (getattr(layer, name)["default"].weight.detach().double() for name in ("lora_A", "lora_B"))
    exact = layer.base_layer.weight.detach().double() + 6 / 4 * up @ down
    found = dict(student.released_weights())["thinker.model.layers.1.mlp.up_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.float().bfloat16())


def test_one_layer_at_a_time_is_whole_and_who_stops_early_still_takes_part(nano):
    entered, inside = [], []

    @contextlib.contextmanager
    def gather(modules):
        entered.append([type(module).__name__ for module in modules])
        inside.append(modules)
        yield
        inside.remove(modules)

    part = nano.decoder.language_model
    for _ in plain_weights(part, gather=gather):
        assert len(inside) == 1
    whole, layers = list(entered), part.config.num_hidden_layers
    assert [names for names in whole if "Layer" in names[0]] == [["Qwen2_5OmniDecoderLayer"]] * layers
    entered.clear()
    weights = plain_weights(part, gather=gather)
    next(weights)
    weights.close()
    assert entered == whole
    assert not inside


def test_an_export_leaves_the_student_trainable_and_in_its_values(batch, tmp_path):
    student = student_with_adapters()
    expected = scores(student, batch)
    export_policy(student, tmp_path / "model")
    assert torch.equal(scores(student, batch), expected)
    assert any(parameter.requires_grad for parameter in student.parameters())
    assert torch.allclose(
        scores(load_policy(StudentOptions(str(tmp_path / "model"), "float32")), batch), expected, atol=1e-5
    )
    student.save_adapters(tmp_path / "adapters")
    import peft

    plain = load_policy(StudentOptions("nano", dtype="float32"))
    peft.PeftModel.from_pretrained(plain.model, str(tmp_path / "adapters"))  # puts them into the model itself
    assert torch.allclose(scores(plain, batch), expected, atol=1e-6)
