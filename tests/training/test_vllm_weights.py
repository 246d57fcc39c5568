"""What vLLM is given of students whose weights are not there as they are: scattered, adapted, in 4 bits.

The worker is the real one, the package vLLM in it a stand-in that computes as the native engine does, so that its
log-probabilities are the policy's own to rounding if it has the policy's weights.
"""

import json

import pytest
import torch

from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.training.trained_policy import policy_from_checkpoint
from tests.conftest import avrt
from tests.policy.standing_in import stand_in
from tests.training.runs import SMALL, fit, fit_arguments
from tests.training.test_shared_prompts import REWARD

LORA = ("--model.student.lora.rank", 4)
ALL, ADAPTED = 51, 40
"""Tensors of the nano student's decoder, and of its layers with adapters, biases included."""


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    return stand_in(tmp_path, monkeypatch)


def learn(world, folder, vllm, *extra):
    """Two steps, of which the first changes the weights."""
    return fit(
        "grpo", world, folder, *SMALL, "--model.group_size", 4, "--model.rollout.max_new_tokens", 12,
        "--data.batch_size", 2, "--trainer.max_steps", 2, "--model.rewards.extra", REWARD,
        "--model.vllm.python", vllm.python, "--model.optimizer.lr", 1e-2, "--model.optimizer.warmup_steps", 1, *extra,
    )  # fmt: skip


def follows(steps):
    """Whether the engine has sampled from the policy as it was at each step, and the policy has changed."""
    assert sorted(steps) == [0, 1]
    print({step: (values["policy/sampler_mismatch"], values["policy/kl"]) for step, values in steps.items()})
    assert steps[1]["policy/kl"] > 1e-3
    return all(values["policy/sampler_mismatch"] < 1e-5 for values in steps.values())


@pytest.mark.parametrize("student", ["whole", "lora"])
def test_scattered_weights_are_gathered_for_the_engine_of_each_rank(world, tmp_path, vllm, student):
    options = (*LORA, "--model.student.gradient_checkpointing", "true") if student == "lora" else ()
    devices = ("--trainer.devices", 2, "--trainer.strategy.stage", 3, "--data.batch_size", 1)
    assert follows(learn(world, tmp_path / "run", vllm, *devices, *options))
    pushed = ADAPTED if student == "lora" else ALL  # what is frozen the engine has loaded
    loads = {}
    for call in vllm.calls():
        if call["call"] == "load":
            loads.setdefault(call["pid"], []).append(call["tensors"])
    assert list(loads.values()) == [[pushed] * 2] * 2
    assert vllm.gone()


def test_a_4_bit_student_learns_is_saved_and_exported(world, tmp_path, vllm):
    pytest.importorskip("bitsandbytes")
    options = (*LORA, "--model.student.quantize", "nf4")
    assert follows(learn(world, tmp_path / "run", vllm, *options))
    [checkpoint] = (tmp_path / "run" / "checkpoints").glob("step-*.ckpt")
    saved = sum(path.stat().st_size for path in checkpoint.rglob("*.pt"))
    policy = policy_from_checkpoint(checkpoint)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert saved < 2 * 16 * trained  # adapters in float32 with three states, and little beside
    assert policy.options.quantize == "nf4"
    avrt("export", "--ckpt_path", checkpoint, "--out", tmp_path / "model")
    plain = dict(load_policy(StudentOptions(str(tmp_path / "model"), "float32")).released_weights())
    assert all(torch.equal(plain[name], tensor) for name, tensor in policy.released_weights())
    avrt("export", "--ckpt_path", checkpoint, "--out", tmp_path / "adapters", "--layout", "adapters")
    record = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (record["r"], record["base_model_name_or_path"]) == (4, "nano")
    stopped = avrt(
        *fit_arguments("grpo", world, tmp_path / "scattered", *SMALL, *options, "--trainer.strategy.stage", 3),
        check=False,
    )
    assert stopped.returncode == 2
    assert "model.student.quantize: ZeRO-3 cannot scatter 4-bit weights" in stopped.stderr
