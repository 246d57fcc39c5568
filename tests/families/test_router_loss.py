"""The router loss in each family: the steps of SFT and GRPO with it, or the refusal where there are no experts."""

import lightning.pytorch as pl
import pytest
import torch

from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.algorithms.sft import sft_step
from avrt.data.inputs.batch import collate
from avrt.errors import AvrtError
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.sft_module import SFTModule
from tests.families.conftest import NANO, forms_of, nano_options

WEIGHT = 30.0


def stepped(source, forms, weight, **options):
    """What one SFT step of plain gradient descent changes, and what it tells."""
    student = load_policy(nano_options(source, **options)).train()
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = PlainOptimizer(torch.optim.SGD(trained.values(), lr=0.1), max_norm=None)
    told = sft_step(student, forms, optimizer, micro_batch_size=2, router_loss=weight)
    return {name: parameter.detach() - before[name] for name, parameter in trained.items()}, told


def grpo_stepped(source, batch, weight):
    """Likewise of one step of GRPO."""
    student = load_policy(nano_options(source))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    optimizer = PlainOptimizer(torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1))
    options = GRPOOptions(group_size=2, sampling=SamplingOptions(max_new_tokens=4), router_loss=weight)
    done = grpo_step(student, Reference(student), batch, optimizer, RewardSum(RewardOptions()), options)
    return {name: p.detach() - before[name] for name, p in student.named_parameters()}, done.metrics


@pytest.mark.parametrize("source", NANO)
def test_steps_take_it_where_there_are_experts_and_others_refuse_it(source, clip):
    student = load_policy(nano_options(source))
    if student.decoder.experts_per_token is None:
        module = SFTModule(student=nano_options(source), router_loss=0.001)
        module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        with pytest.raises(AvrtError, match=r"model.router_loss: .*no experts"):
            module.load()
        return
    batch = collate([forms_of(student, clip).rows[form] for form in ("video and sound", "sound", "text")])
    plain, told = stepped(source, batch, 0.0)
    assert told.router_loss == 0
    changed, told_too = stepped(source, batch, WEIGHT)
    assert told_too.loss == pytest.approx(float(told.loss), rel=1e-6)
    assert told_too.router_loss > student.decoder.experts_per_token
    gates = [name for name in changed if name.endswith("mlp.gate.weight")]
    assert gates
    assert all((changed[name] - plain[name]).abs().max() > 1e-6 for name in gates)
    # Adapters leave routers as they are; what comes before them still learns to spread the tokens.
    pytest.importorskip("peft")
    adapted = [stepped(source, batch, weight, lora=LoraOptions(rank=4))[0] for weight in (0.0, WEIGHT)]
    assert not any("gate.weight" in name for name in adapted[0])
    assert any((one - other).abs().max() > 1e-6 for one, other in zip(*(a.values() for a in adapted), strict=True))
    # GRPO
    plain, _ = grpo_stepped(source, batch, 0.0)
    changed, told = grpo_stepped(source, batch, WEIGHT)
    assert told["router_loss"] > student.decoder.experts_per_token
    assert all((changed[name] - plain[name]).abs().max() > 1e-6 for name in gates)
