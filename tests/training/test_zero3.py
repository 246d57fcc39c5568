"""ZeRO-3: weights gathered once for all completions, and the reference scattered like the policy."""

import json

import pytest

from tests.training.runs import SMALL, fit

COMPARED = ("train/loss", "policy/kl", "policy/entropy", "completions/tokens", "rewards/total/mean")


def test_weights_are_gathered_once_per_rollout_and_the_reference_is_scattered(nano, world, tmp_path):
    """Two processes; every number of a step is the same as where each token gathers."""
    runs = {}
    for whole in ("true", "false"):
        (tmp_path / whole).mkdir()
        steps = fit(
            "grpo", world, tmp_path / whole, *SMALL, "--model.group_size", 2, "--model.rollout.max_new_tokens", 16,
            "--data.batch_size", 2, "--trainer.max_steps", 2, "--trainer.devices", 2, "--trainer.strategy.stage", 3,
            "--trainer.strategy.gather_for_generation", whole, "--model.optimizer.lr", 1e-3,
            "--trainer.callbacks+=tests.training.recording.RecordGathers", "--trainer.callbacks.path", tmp_path / whole,
        )  # fmt: skip
        runs[whole] = steps, [json.loads((tmp_path / whole / f"rank{rank}.json").read_text()) for rank in range(2)]
    gathers = {whole: [max(record["gathers"]) for record in records] for whole, (_, records) in runs.items()}
    print("collectives per rollout:", gathers)
    tensors = sum(1 for part in (nano.decoder.language_model, nano.decoder.lm_head) for _ in part.parameters())
    assert gathers["true"] == [tensors, tensors]  # without a GPU they are not joined into fewer collectives
    assert min(gathers["false"]) > 10 * tensors
    for _, records in runs.values():
        for record in records:  # each rank has half of either, and a little for rounding up
            assert record["shares"] == {
                "policy": pytest.approx(0.5, abs=0.01),
                "reference": pytest.approx(0.5, abs=0.01),
            }
    for step, values in runs["false"][0].items():
        for name in COMPARED:
            assert runs["true"][0][step][name] == pytest.approx(values[name], abs=1e-5), (step, name)
