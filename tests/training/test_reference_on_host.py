"""GRPO with its reference in the host's memory: the same numbers, and nothing of it in a checkpoint."""

import pytest

from avrt.training.deepspeed_internals import saved_record
from tests.training.runs import SMALL, fit


def test_a_run_with_the_reference_on_the_host_is_the_same(world, tmp_path):
    shared = (*SMALL, "--model.group_size", 4, "--model.rollout.max_new_tokens", 16, "--data.batch_size", 4,
              "--trainer.max_steps", 3, "--model.optimizer.lr", 1e-3, "--model.optimizer.warmup_steps", 1)  # fmt: skip
    runs = {
        place: fit("grpo", world, tmp_path / place, *shared, "--model.reference", place) for place in ("device", "host")
    }
    assert runs["host"][2]["policy/kl"] > 0
    for step, values in runs["device"].items():
        for name in ("train/loss", "policy/kl", "policy/entropy", "rewards/total/mean"):
            assert runs["host"][step][name] == pytest.approx(values[name], abs=1e-6), (step, name)
    [checkpoint] = (tmp_path / "host" / "checkpoints").glob("step-*.ckpt")
    names = saved_record(checkpoint)["module"]
    assert names
    assert not any(name.startswith("reference.") for name in names)
