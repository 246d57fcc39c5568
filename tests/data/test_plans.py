"""Which rows each rank gets at each step, against lists written out by hand."""

import pytest

from avrt.data.loading.order import SampleOrder, Source
from avrt.data.loading.plans import BlockPlan, EpochPlan


def epoch_plan(samples, batch_size, world_size):
    order = SampleOrder((Source((samples,)),), shuffle=False)
    return EpochPlan(order, batch_size, world_size)


def test_an_epoch_is_dealt_to_the_ranks_sample_by_sample():
    plan = epoch_plan(10, 2, 2)
    assert list(plan.rows(0, 0)) == [[0, 2], [4, 6], [8, None]]
    assert list(plan.rows(0, 1)) == [[1, 3], [5, 7], [9, None]]
    assert (plan.global_step_size, plan.steps) == (4, 3)


def test_an_epoch_goes_on_from_a_position():
    plan = epoch_plan(10, 1, 3)
    assert [list(plan.rows(0, rank, 5)) for rank in range(3)] == [[[5], [8]], [[6], [9]], [[7], [None]]]
    assert [plan.steps_left(p) for p in (0, 1, 3, 5, 7, 9, 10, 11, 40)] == [4, 3, 3, 2, 1, 1, 0, 0, 0]
    assert list(plan.rows(0, 0, 10)) == []


def test_an_epoch_follows_its_own_order():
    order = SampleOrder((Source((9,)),), seed=4)
    plan = EpochPlan(order, 9)
    for epoch in (0, 1):
        assert list(plan.rows(epoch, 0)) == [order.epoch(epoch).tolist()]
    assert order.epoch(0).tolist() != order.epoch(1).tolist()


def test_blocks_are_handed_to_the_ranks_in_turn():
    plan = BlockPlan(11, 3, 2)
    assert list(plan.rows(0, 0)) == [[0, 1, 2], [6, 7, 8]]
    assert list(plan.rows(0, 1)) == [[3, 4, 5], [9, 10, None]]
    assert (plan.global_step_size, plan.steps) == (2, 2)
    three = BlockPlan(11, 3, 3)
    assert [list(three.rows(0, rank)) for rank in range(3)] == [
        [[0, 1, 2], [9, 10, None]],
        [[3, 4, 5], [None] * 3],
        [[6, 7, 8], [None] * 3],
    ]


@pytest.mark.parametrize("kind", [set, frozenset, list, tuple])
def test_only_blocks_of_which_everything_is_answered_are_left_out(kind):
    done = kind([0, 1, 2, 4, 9])
    plan = BlockPlan(11, 3, done=done)
    assert list(plan.rows(0, 0)) == [[3, 4, 5], [6, 7, 8], [9, 10, None]]
    assert plan.steps == 3
    assert list(BlockPlan(11, 3, done=kind(range(11))).rows(0, 0)) == []


def test_blocks_that_are_left_count_from_a_position():
    plan = BlockPlan(11, 3, 2)
    assert [plan.steps_left(p) for p in (0, 1, 2, 3, 4, 5, 30)] == [2, 2, 1, 1, 0, 0, 0]
    assert list(plan.rows(0, 0, 2)) == [[6, 7, 8]]
    assert list(plan.rows(0, 1, 2)) == [[9, 10, None]]
    assert BlockPlan(6, 3).steps == 2
    assert BlockPlan(0, 3).steps == 0


def test_a_single_sample_more_costs_a_step_more():
    assert [epoch_plan(samples, 2, 2).steps for samples in (7, 8, 9)] == [2, 2, 3]
