"""A run killed with -9 and resumed equals an unbroken one, step by step."""

import shutil

import pytest

from tests.training.runs import fit, fit_and_kill, logged


@pytest.mark.parametrize(("stage", "workers"), [("sft", 0), ("sft", 2), ("grpo", 0)])
def test_killed_run_resumes_as_if_unbroken(world, tmp_path, stage, workers):
    common = ("--data.num_workers", workers, "--data.batch_size", 4, "--model.micro_batch_size", 4,
              "--trainer.max_epochs", 2, "--trainer.max_steps", 20,
              "--checkpoint.every_n_train_steps", 3)  # fmt: skip
    if stage == "grpo":
        common = (*common, "--model.group_size", 2, "--model.rollout.max_new_tokens", 16)
    unbroken = fit(stage, world, tmp_path / "whole", *common)
    root = tmp_path / "killed"
    fit_and_kill(stage, world, root, *common)
    before = logged(root)
    assert len(before) < 20
    shutil.rmtree(root / "lightning_logs")
    resumed = fit(stage, world, root, *common, "--ckpt_path", "last")
    assert min(resumed) > 0, "the resumed run began anew"
    assert max(resumed) == 19
    for step in resumed:
        for name, value in unbroken[step].items():
            if not name.startswith("seconds/") and not name.endswith("_per_second"):
                assert resumed[step][name] == pytest.approx(value, rel=1e-6, abs=1e-7), (step, name)
