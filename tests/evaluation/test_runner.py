"""The runner: one prediction per question, failed ones with an error, and answers that their seed decides."""

from dataclasses import replace

import pytest

from avrt.data.inputs.batch import collate
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.evaluation.runner import answer
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.rollout.sampling import SamplingOptions

GREEDY = SamplingOptions(temperature=0.0, max_new_tokens=6)


@pytest.fixture
def shards(world):
    return ShardSet(world / "test")


@pytest.fixture
def batch(builder, shards):
    """Samples 0, 2 and 5 of the shards, of which 2 could not be read, and a padding row."""
    rows = []
    for index in (0, None, 2, 5):
        row = builder.padding_row() if index in (None, 2) else builder.row(*decode_members(shards.read(index)))
        row.indices = [-1 if index is None else index]
        if index == 2:
            row.skipped = {shards.name(2): "cannot be decoded"}
        rows.append(row)
    return collate(rows)


def test_each_question_has_one_prediction_and_padding_has_none(nano, batch, shards):
    predictions = answer(nano, batch, GREEDY, shards=shards)
    assert [p.index for p in predictions] == [0, 2, 5]
    asked = [replace(shards.sample(index), trace=None, evidence=()) for index in (0, 2, 5)]
    assert [p.sample() for p in predictions] == asked
    assert [p.error for p in predictions] == [None, "cannot be decoded", None]
    assert [len(p.responses) for p in predictions] == [1, 0, 1]
    assert [p.index for p in answer(nano, batch, GREEDY)] == [0, 5]


def test_an_answer_is_the_policys_own_and_does_not_depend_on_its_batch(nano, builder, batch, shards):
    together = {p.index: p for p in answer(nano, batch, GREEDY, shards=shards)}
    alone = builder.row(*decode_members(shards.read(5)))
    alone.indices = [5]
    [prediction] = answer(nano, alone, GREEDY)
    assert prediction == together[5]
    [completion] = nano.generate(nano.encode(alone), GREEDY, seeds=[0])
    assert prediction.responses == (nano.decode(completion.token_ids),)
    assert prediction.finished == (completion.finished,)


def test_the_seed_decides_sampled_answers(nano, batch, shards):
    sampling = SamplingOptions(temperature=1.0, max_new_tokens=6)
    first, again, other = (answer(nano, batch, sampling, samples=3, seed=(s,)) for s in (1, 1, 2))
    assert first == again
    assert [p.responses for p in first] != [p.responses for p in other]
    assert len(set(first[0].responses)) > 1
    # The first answers do not depend on how many follow.
    assert [p.responses[:1] for p in first] == [p.responses for p in answer(nano, batch, sampling, seed=(1,))]


def test_rewards_are_those_of_the_first_answer(nano, batch, shards):
    rewards = RewardSum(RewardOptions())
    predictions = answer(nano, batch, GREEDY, shards=shards, rewards=rewards)
    assert predictions[1].rewards is None
    for prediction, row in ((predictions[0], 0), (predictions[2], 3)):
        assert prediction.rewards == rewards(prediction.responses[0], batch.samples[row], batch.clips[row])
