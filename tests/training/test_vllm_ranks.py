"""Two ranks share one engine elsewhere: pushed to once, asked once, and each rank gets its own prompts' completions."""

import json
import subprocess

from avrt.policy.vllm.process import WORKER
from avrt.policy.vllm.ranks import engine_of
from avrt.training.grpo_metrics import engine_metrics
from tests.policy.standing_in import stand_in
from tests.training.runs import SMALL, fit


def test_two_ranks_learn_from_one_engine(world, tmp_path, monkeypatch):
    vllm = stand_in(tmp_path, monkeypatch)
    worker = subprocess.Popen([vllm.python, WORKER, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        address = next(line for line in worker.stdout if line.startswith("listening on ")).split()[-1]
        steps = fit(
            "grpo", world, tmp_path / "run", *SMALL, "--trainer.devices", 2, "--data.batch_size", 2,
            "--model.group_size", 2, "--model.rollout.max_new_tokens", 6, "--trainer.max_steps", 2,
            "--model.optimizer.lr", 1e-2, "--model.optimizer.warmup_steps", 1,
            "--model.vllm.addresses", json.dumps([address]),
        )  # fmt: skip
    finally:
        worker.kill()
        worker.wait()
    assert vllm.names() == ["start", *["load", "sample"] * 2]
    assert [call["prompts"] for call in vllm.calls() if call["call"] == "sample"] == [8, 8]
    # Another prompt's completion, or one by other weights, would not have these log-probabilities.
    assert [step["policy/sampler_mismatch"] < 1e-5 for step in steps.values()] == [True, True]


def test_neighbours_share_an_engine_and_none_goes_without():
    assert [engine_of(rank, 4, 2) for rank in range(4)] == [0, 0, 1, 1]
    assert [engine_of(rank, 5, 2) for rank in range(5)] == [0, 0, 0, 1, 1]
    assert [engine_of(rank, 3, 3) for rank in range(3)] == [engine_of(rank, 3, 5) for rank in range(3)] == [0, 1, 2]


def test_a_step_logs_the_slowest_push_and_the_restarts_of_all_ranks():
    names = ("rollout/push_seconds", "rollout/push_gigabytes_per_second", "rollout/engine_restarts")
    each = [dict(zip(names, values, strict=True)) for values in ((2.0, 5.0, 1.0), (4.0, 2.5, 2.0), (0.0, 0.0, 0.0))]
    assert engine_metrics(each) == dict(zip(names, (4.0, 2.5, 3.0), strict=True))
