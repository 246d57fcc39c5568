"""DeepSpeed checkpoints of each family: read back they are the run's weights, and they hold nothing that is frozen."""

import pytest
import torch

from avrt.policy.policy import load_policy
from avrt.training.deepspeed_internals import saved_record
from avrt.training.trained_policy import PREFIX, policy_from_checkpoint
from tests.families.conftest import NANO, nano_options
from tests.training.runs import SMALL, fit

ADAPTED = ("--model.student.lora.rank", 2)
LEARNT = ("--model.optimizer.lr", 1e-3, "--trainer.max_steps", 1, "--data.batch_size", 4)
RUNS = [
    *(pytest.param("grpo", source, (), id=f"grpo-{source}") for source in NANO),
    # the decoder is frozen, and its tied projection goes by two names
    pytest.param("sft", "nano-gemma4", ADAPTED, id="sft-adapted"),
]


@pytest.mark.parametrize(("stage", "source", "options"), RUNS)
def test_a_checkpoint_holds_what_was_trained(world, tmp_path, stage, source, options):
    if options:
        pytest.importorskip("peft")
    if stage == "grpo":
        # random weights are never rewarded for their form, and a group of two for nothing else
        reward = '[{"function": "tests.algorithms.test_grpo.brevity", "weight": 1.0}]'
        options = ("--model.group_size", 2, "--model.rollout.max_new_tokens", 4, "--model.rewards.extra", reward)
    fit(
        stage, world, tmp_path, *SMALL, "--model.student.source", source, *LEARNT, *options,
        "--checkpoint.every_n_train_steps", 1,
    )  # fmt: skip
    [path] = (tmp_path / "checkpoints").glob("step-*.ckpt")
    policy, before = policy_from_checkpoint(path), dict(load_policy(nano_options(source)).model.named_parameters())
    saved = {n: tensor for n, tensor in saved_record(path)["module"].items() if n.startswith(PREFIX)}
    parameters = dict(policy.model.named_parameters(remove_duplicate=False))
    buffers = dict(policy.model.named_buffers())
    trained = {name for name, p in parameters.items() if p.requires_grad}
    weights = {n.removeprefix(PREFIX): t for n, t in saved.items()}
    assert trained <= set(weights) <= trained | set(buffers)
    for name, tensor in weights.items():
        assert torch.equal(tensor, parameters[name] if name in trained else buffers[name]), name
    assert any(name not in before or not torch.equal(weights[name], before[name]) for name in trained)
    # the reference, and whatever else is beside the policy: buffers alone
    last = {name.rpartition(".")[2] for name in buffers}
    assert all(name.rpartition(".")[2] in last for name in set(saved_record(path)["module"]) - set(saved))
