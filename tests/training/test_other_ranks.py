"""Resuming under DeepSpeed with another number of processes: the rest of the epoch, and the same optimizer."""

import shutil

import pytest

from avrt.data.shards import ShardSet
from tests.conftest import avrt
from tests.training.runs import SMALL, fit, fit_and_kill, fit_arguments
from tests.training.test_exact_resume import entries, run

STEPS = 16


@pytest.fixture(scope="module")
def two_ranks(world, tmp_path_factory):
    """Two processes, global batches of 8: all steps' losses, and a run that was killed in the middle of an epoch."""
    root = tmp_path_factory.mktemp("two")
    shared = (*SMALL, "--data.batch_size", 4, "--trainer.devices", 2, "--model.optimizer.warmup_steps", 1)
    shared = (*shared, "--trainer.max_steps", STEPS)
    losses = fit("sft", world, root / "whole", *shared)
    fit_and_kill("sft", world, root / "begun", *shared, "--checkpoint.every_n_train_steps", 4)
    return root, losses


def test_one_process_goes_on_where_two_stopped(world, tmp_path, two_ranks):
    """One process with twice the batch has the same global batches, so the same losses if its optimizer is the same."""
    root, losses = two_ranks
    shutil.copytree(root / "begun" / "checkpoints", tmp_path / "checkpoints")
    resumed = fit("sft", world, tmp_path, *SMALL, "--data.batch_size", 8, "--model.optimizer.warmup_steps", 1,
                  "--trainer.max_steps", STEPS, "--ckpt_path", "last")  # fmt: skip
    saved = min(resumed)
    assert saved in (4, 8, 12)
    assert sorted(resumed) == list(range(saved, STEPS))
    for step in resumed:
        assert resumed[step]["train/loss"] == pytest.approx(losses[step]["train/loss"], abs=2e-4), step


def test_two_processes_take_the_rest_that_one_left(world, tmp_path):
    everything = sorted(sample.id for sample in ShardSet(world / "train").samples())
    run(world, tmp_path / "run", tmp_path / "before", 1, "--trainer.max_steps", 4)
    run(world, tmp_path / "run", tmp_path / "after", 2, "--ckpt_path", "last")
    before, after = entries(tmp_path / "before"), entries(tmp_path / "after")
    first = [i for entry in [*before, *after] if entry["epoch"] == 0 for i in entry["ids"]]
    assert sorted(first) == everything
    for epoch in (1, 2):
        assert sorted(i for entry in after if entry["epoch"] == epoch for i in entry["ids"]) == everything
    assert {entry["rank"] for entry in after} == {0, 1}


def test_zero3_says_that_it_cannot(world, tmp_path):
    shared = (*SMALL, "--data.batch_size", 4, "--trainer.strategy.stage", 3)
    fit("sft", world, tmp_path, *shared, "--trainer.max_steps", 2)
    refused = avrt(
        *fit_arguments("sft", world, tmp_path, *shared, "--trainer.devices", 2, "--ckpt_path", "last"), check=False
    )
    assert refused.returncode != 0
    assert "go on with --trainer.devices 1" in refused.stderr
