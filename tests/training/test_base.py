"""Schedule and display, without a trainer."""

import warnings

import pytest
import torch

from avrt.algorithms.groups import Rollout
from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions
from avrt.training.callbacks import group_table
from avrt.training.grpo import GRPOModule
from avrt.training.optimizers import OptimizerOptions
from tests.conftest import make_sample


def test_linear_warm_up_then_cosine():
    factor = OptimizerOptions(warmup_steps=4, final_lr_share=0.1).schedule(12)
    assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == pytest.approx(1.0)
    assert factor(8) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(12) == pytest.approx(0.1)
    assert factor(99) == pytest.approx(0.1)


def test_group_needs_company():
    with pytest.raises(ValueError, match="group_size"):
        GRPOModule(group_size=1)


def test_sampling_that_biases_the_loss_is_warned_about():
    with pytest.warns(UserWarning, match="biases"):
        GRPOModule(rollout=SamplingOptions(top_p=0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRPOModule()


def test_group_table_escapes_what_the_model_wrote():
    batch = OmniBatch([make_sample()], [], [], [], torch.ones(1, dtype=torch.bool), [Clip()])
    completion = Completion(torch.tensor([1]), torch.tensor([0.0]), True)
    rollout = Rollout(
        batch,
        [completion] * 2,
        ["<think>a | b</think>", "<script>alert(1)</script>"],
        {"format": torch.tensor([[1.0, 0.0]]), "total": torch.tensor([[2.0, 0.5]])},
        torch.tensor([[1.0, -1.0]]),
        torch.tensor([False]),
    )
    table = group_table(rollout, 0)
    assert "<script>" not in table
    assert "<think>" not in table
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert {row.count("|") for row in rows} == {5}
    assert "+1.00" in rows[1]
