"""Real runs of each family: two ranks under ZeRO-2 and ZeRO-3 are one process, and a killed run goes on exactly."""

import pytest

from tests.families.conftest import NANO
from tests.training.runs import SMALL, fit, fit_and_kill

COMPARED = ("train/loss", "policy/kl", "policy/entropy", "completions/tokens", "rewards/total/mean")
STEPS = 4


def grpo(source):
    return (
        *SMALL, "--model.student.source", source,
        "--model.group_size", 2, "--model.rollout.max_new_tokens", 12, "--model.optimizer.lr", 1e-3,
        "--trainer.max_steps", STEPS,
    )  # fmt: skip


@pytest.fixture(scope="module", params=NANO)
def alone(request, world, tmp_path_factory):
    """A family, and the numbers of its steps in one process."""
    root = tmp_path_factory.mktemp("alone")
    return request.param, fit("grpo", world, root, *grpo(request.param), "--data.batch_size", 4)


def compare(steps, expected):
    assert max(steps) == max(expected) >= STEPS - 1
    for step, values in expected.items():
        for name in COMPARED:
            if name in values:
                assert steps[step][name] == pytest.approx(values[name], abs=2e-4), (step, name)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_are_one_process(alone, world, tmp_path, stage):
    source, expected = alone
    strategy = ("--trainer.devices", 2, "--trainer.strategy.stage", stage, "--data.batch_size", 2)
    compare(fit("grpo", world, tmp_path, *grpo(source), *strategy), expected)


def test_a_killed_run_goes_on_as_if_unbroken(alone, world, tmp_path):
    source, expected = alone
    options = (*grpo(source), "--data.batch_size", 4, "--checkpoint.every_n_train_steps", 1)
    fit_and_kill("grpo", world, tmp_path, *options, "--trainer.max_steps", 50)
    compare(fit("grpo", world, tmp_path, *options, "--ckpt_path", "last"), expected)
