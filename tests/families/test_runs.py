"""Real runs of each family: two ranks under ZeRO-2 and ZeRO-3 are one process, and a killed run goes on exactly."""

import shutil

import pytest

from tests.families.conftest import NANO
from tests.training.runs import SMALL, fit, fit_and_kill

COMPARED = ("train/loss", "policy/kl", "policy/entropy", "completions/tokens", "rewards/total/mean")
STEPS = 10
# Of random weights no completion is well formed: without another reward there would be nothing to learn.
REWARD = '[{"function": "tests.algorithms.test_grpo.brevity", "weight": 1.0}]'


# Where there are experts, also with the loss that spreads tokens over them; it is one of each micro-batch's tokens, so
# that these have to be the same on one rank and on two.
EXPERTS = {"nano-qwen3-omni": ("--model.router_loss", 0.01, "--model.micro_batch_size", 1)}
# Small weights would stay whole on each rank, and a nano student has hardly others.
SCATTERED = ("--trainer.callbacks+=tests.training.recording.ScatterAll",)


def grpo(source):
    return (
        *SMALL, *EXPERTS.get(source, ()), "--model.student.source", source, "--model.group_size", 2,
        "--model.rollout.max_new_tokens", 12, "--model.optimizer.lr", 1e-3, "--model.rewards.extra", REWARD,
    )  # fmt: skip


@pytest.fixture(scope="module", params=NANO)
def alone(request, world, tmp_path_factory):
    """A family, and the numbers of its steps in one process."""
    options = (*grpo(request.param), "--data.batch_size", 4, "--trainer.max_steps", STEPS)
    return request.param, fit("grpo", world, tmp_path_factory.mktemp("alone"), *options)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_are_one_process(alone, world, tmp_path, stage):
    source, expected = alone
    ranks = (
        "--trainer.devices", 2, "--trainer.strategy.stage", stage, "--data.batch_size", 2, "--trainer.max_steps", 3,
        *(SCATTERED if stage == 3 else ()),
    )  # fmt: skip
    found = fit("grpo", world, tmp_path, *grpo(source), *ranks)
    assert sorted(found) == [0, 1, 2]
    assert any(values["train/loss"] for values in expected.values())
    for step, values in found.items():
        for name in (*COMPARED, *(("train/router_loss",) if source in EXPERTS else ())):
            assert values[name] == pytest.approx(expected[step][name], abs=2e-4), (step, name)


def test_a_killed_run_goes_on_as_if_unbroken(alone, world, tmp_path):
    source, expected = alone
    options = (
        *grpo(source), "--data.batch_size", 4, "--trainer.max_steps", STEPS, "--checkpoint.every_n_train_steps", 3
    )  # fmt: skip
    fit_and_kill("grpo", world, tmp_path, *options)
    shutil.rmtree(tmp_path / "lightning_logs")
    found = fit("grpo", world, tmp_path, *options, "--ckpt_path", "last")
    assert min(found) > 0, "the resumed run began anew"
    assert max(found) == STEPS - 1
    for step, values in found.items():
        for name in COMPARED:
            assert values[name] == pytest.approx(expected[step][name], rel=1e-6, abs=1e-7), (step, name)
