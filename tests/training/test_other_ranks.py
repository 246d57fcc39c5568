"""Resuming under DeepSpeed with another number of processes: the rest of the epoch, and the same optimizer."""

import shutil

import pytest

from avrt.data.shards.reader import ShardSet
from tests.training.runs import SMALL, fit, fit_and_kill
from tests.training.test_exact_resume import EPOCHS, entries, run

STEPS = 16
STAGES = (3,)  # stage 2 is resumed by another number of processes below


@pytest.fixture(scope="module")
def two_ranks(world, tmp_path_factory):
    """Two processes, global batches of 8: all steps' losses, and a run that was killed in the middle of an epoch."""
    root = tmp_path_factory.mktemp("two")
    shared = (*SMALL, "--data.batch_size", 4, "--trainer.devices", 2, "--model.optimizer.warmup_steps", 1)
    losses = {}
    for stage in STAGES:
        whole = (*shared, "--trainer.strategy.stage", stage, "--trainer.max_steps", STEPS)
        losses[stage] = fit("sft", world, root / f"whole{stage}", *whole)
        fit_and_kill("sft", world, root / f"begun{stage}", *whole, "--checkpoint.every_n_train_steps", 4)
    return root, losses


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_goes_on_where_two_stopped(world, tmp_path, two_ranks, stage):
    """One process with twice the batch has the same global batches, so the same losses if its optimizer is the same."""
    root, losses = two_ranks
    shutil.copytree(root / f"begun{stage}" / "checkpoints", tmp_path / "checkpoints")
    resumed = fit("sft", world, tmp_path, *SMALL, "--data.batch_size", 8, "--model.optimizer.warmup_steps", 1,
                  "--trainer.strategy.stage", stage, "--trainer.max_steps", STEPS, "--ckpt_path", "last")  # fmt: skip
    saved = min(resumed)
    assert saved in (4, 8, 12)
    assert sorted(resumed) == list(range(saved, STEPS))
    for step in resumed:
        assert resumed[step]["train/loss"] == pytest.approx(losses[stage][step]["train/loss"], abs=2e-4), step


def test_two_processes_take_the_rest_that_one_left(world, tmp_path):
    everything = sorted(sample.id for sample in ShardSet(world / "train").samples())
    run(world, tmp_path / "run", tmp_path / "before", 1, "--trainer.max_steps", 4)
    run(world, tmp_path / "run", tmp_path / "after", 2, "--ckpt_path", "last")
    before, after = entries(tmp_path / "before"), entries(tmp_path / "after")
    first = [i for entry in [*before, *after] if entry["epoch"] == 0 for i in entry["ids"]]
    assert sorted(first) == everything
    for epoch in range(1, EPOCHS):
        assert sorted(i for entry in after if entry["epoch"] == epoch for i in entry["ids"]) == everything
    assert {entry["rank"] for entry in after} == {0, 1}
