"""Asking a policy the questions of a batch: encode, generate, decode, and one prediction per question."""

from __future__ import annotations

from dataclasses import replace

from avrt.data.inputs.batch import OmniBatch
from avrt.data.shards.reader import ShardSet
from avrt.errors import BadSampleError
from avrt.evaluation.predictions import Prediction
from avrt.objectives.rewards import RewardSum
from avrt.policy.policy import Policy
from avrt.rollout.sampling import SamplingOptions, completion_seeds


def answer(
    policy: Policy,
    batch: OmniBatch,
    sampling: SamplingOptions,
    *,
    samples: int = 1,
    seed: tuple[int, ...] = (0,),
    shards: ShardSet | None = None,
    rewards: RewardSum | None = None,
) -> list[Prediction]:
    """Ask each question of a batch.

    Under ZeRO-3 every rank has to call it, with a batch of padding rows if it has no questions left.

    Args:
        policy: The student.
        batch: B rows. Rows without a valid sample are generated for as well, but their completions are dropped.
        sampling: How to draw.
        samples: k, answers per question.
        seed: Together with the sample's id and the answer's number it decides the answer.
        shards: The shards of the batch; where a sample could not be read, they say which question failed. Without them
            such rows are left out.
        rewards: Score the first answer to each question whose right answer is known.

    Returns:
        A prediction for each valid row, and one with an error for each sample that could not be read, in the order of
        the rows.
    """
    seeds = completion_seeds([sample.id for sample in batch.samples], samples, *seed)
    completions = policy.generate(policy.encode_to_generate(batch), sampling, seeds=seeds, group_size=samples)
    texts = policy.decode_all([completion.token_ids for completion in completions])
    predictions = []
    for row, (sample, index, valid) in enumerate(zip(batch.samples, batch.indices, batch.valid.tolist(), strict=True)):
        if valid:
            own = completions[row * samples : (row + 1) * samples]
            responses = tuple(texts[row * samples : (row + 1) * samples])
            finished = tuple(completion.finished for completion in own)
            prediction = Prediction.from_sample(sample, index, responses=responses, finished=finished)
            if rewards is not None and sample.answer is not None:
                prediction = replace(prediction, rewards=rewards(responses[0], sample, batch.clips[row]))
            predictions.append(prediction)
        elif index >= 0 and shards is not None:
            predictions.append(failed_prediction(shards, index, batch.skipped[shards.name(index)]))
    return predictions


def failed_prediction(shards: ShardSet, index: int, error: str) -> Prediction:
    """The prediction of a question that could not be asked."""
    try:
        return Prediction.from_sample(shards.sample(index), index, error=error)
    except BadSampleError:
        # Not even the record can be read: a question that counts as wrong.
        return Prediction(shards.name(index), "", ("", ""), "A", index=index, error=error)
