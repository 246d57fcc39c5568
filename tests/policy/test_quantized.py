"""4-bit weights beneath adapters: the policy is the plain one of the rounded weights, in values and in training."""

import pytest
import torch
from safetensors.torch import load_file

from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.algorithms.sft import sft_step
from avrt.errors import AvrtError
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.policy import load_policy
from avrt.policy.quantized import BLOCK, quantize_layers
from avrt.policy.reference import Reference
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.sft_module import SFTModule
from tests.policy.test_plain_weights import scores, student_with_adapters, take_up

pytest.importorskip("bitsandbytes")
# Appendix E of arXiv 2305.14314.
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip


def linear_layers(policy):
    return {n: m for n, m in policy.decoder.language_model.layers.named_modules() if hasattr(m, "lora_A")}


def on_rounded_weights(student):
    """The same student with plain adapters on the weights that 4 bits stand for."""
    plain = load_policy(StudentOptions("nano", dtype=student.options.dtype, lora=student.options.lora))
    theirs = linear_layers(student)
    with torch.no_grad():
        for name, layer in linear_layers(plain).items():
            layer.base_layer.weight.copy_(theirs[name].base_layer.dequantized())
        parameters = dict(student.named_parameters())
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(parameters[name])
    return plain


def test_each_weight_is_the_nearest_of_sixteen_times_its_blocks_largest(nano):
    student = student_with_adapters(quantize="nf4")
    layer = student.decoder.language_model.layers[0].mlp.down_proj
    weight = nano.decoder.language_model.layers[0].mlp.down_proj.weight.detach()
    blocks = weight.reshape(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = NF4[((blocks / largest)[..., None] - NF4).abs().argmin(-1)] * largest
    assert torch.allclose(layer.base_layer.dequantized(), nearest.view_as(weight), atol=1e-7)
    assert layer.base_layer.weight.numel() * 2 == weight.numel()
    kept = {name for name, parameter in student.named_parameters() if parameter.dtype == torch.uint8}
    assert len(kept) == len(linear_layers(student))
    assert all("language_model.layers" in name for name in kept)
    assert not any("absmax" in name or "quant" in name for name in student.state_dict())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_as_plain_adapters_on_the_rounded_weights(batch, checkpointing):
    """SFT and GRPO, three steps each: the same rewards, losses and adapters to rounding."""
    options = GRPOOptions(group_size=2, sampling=SamplingOptions(max_new_tokens=12), micro_batch_size=2)
    rewards = RewardSum(RewardOptions())
    student = student_with_adapters(quantize="nf4", gradient_checkpointing=checkpointing)
    plain = on_rounded_weights(student)
    assert torch.allclose(scores(student, batch), scores(plain, batch), atol=1e-5)
    losses = []
    for policy in (student, plain):
        policy.train()
        optimizer = PlainOptimizer(torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3))
        for _ in range(3):
            sft_step(policy, batch, optimizer, micro_batch_size=2)
        reference = Reference(policy)
        steps = [grpo_step(policy, reference, batch, optimizer, rewards, options, seed=(0, s)) for s in range(3)]
        losses.append([float(step.metrics["loss"]) for step in steps])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    trained = dict(plain.named_parameters())
    moved = 0.0
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter, trained[name], atol=1e-4), name
            moved = max(moved, float(parameter.detach().abs().max()))
    assert moved > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exported_and_pushed_weights_are_the_rounded_ones_with_the_adapters(batch, tmp_path, dtype):
    student = student_with_adapters(dtype, quantize="nf4")
    expected = scores(student, batch)
    plain = load_policy(StudentOptions("nano", dtype=dtype))
    take_up(plain, student.released_weights(everything=False))
    bound = 1e-5 if dtype == "float32" else 0.1
    assert torch.allclose(scores(plain, batch), expected, atol=bound)
    export_policy(student, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert torch.equal(scores(load_policy(StudentOptions(str(tmp_path), dtype)), batch), scores(plain, batch))
    assert torch.equal(scores(student, batch), expected)


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(AvrtError, match=r"model\.student\.quantize: 4-bit weights cannot be trained themselves"):
        SFTModule(StudentOptions("nano", quantize="nf4"))
    with pytest.raises(AvrtError, match="wide is 48 wide, which is no multiple of 64"):
        quantize_layers(torch.nn.ModuleDict({"wide": torch.nn.Linear(48, 64)}), ".*")
