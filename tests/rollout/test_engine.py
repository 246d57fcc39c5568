"""The engine against transformers' generate and against scoring; rows neither mix nor depend on company."""

import pytest
import torch

from avrt.models.scoring import Prompts, response_states
from avrt.objectives.likelihood import score_tokens
from avrt.rollout.engine import generate
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import stock_media


@pytest.fixture
def prompts(nano, batch):
    return Prompts(batch.prompt_ids, batch.prompt_positions, nano.encode(batch))


def sample(nano, prompts, seeds, *, eos=None, tokens=30, temperature=1.0, group_size=1):
    options = SamplingOptions(max_new_tokens=tokens, temperature=temperature)
    stop = nano.processor.tokenizer.eos_token_id if eos is None else eos
    return generate(nano.text, prompts, options, eos_token_id=stop, seeds=seeds, group_size=group_size)


def test_greedy_equals_transformers_generate_token_by_token(nano, batch, prompts):
    ours = sample(nano, prompts, [0] * 4, temperature=0.0)
    for i in range(4):
        ids = batch.prompt_ids[i][None]
        theirs = nano.thinker.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **stock_media(batch, i),
            max_new_tokens=30,
            do_sample=False,
        )
        assert theirs[0, ids.shape[1] :].tolist() == ours[i].token_ids.tolist()


def test_recorded_log_probabilities_equal_rescoring(nano, prompts):
    answers = sample(nano, prompts, list(range(12)), group_size=3)
    states = response_states(nano.text, prompts, [a.token_ids for a in answers])
    scores = score_tokens(states.hidden, states.targets, nano.text.lm_head)
    assert torch.allclose(torch.cat([a.logprobs for a in answers]), scores.logprobs, atol=1e-5)


def test_an_answer_depends_on_its_own_prompt_and_seed_alone(nano, prompts):
    together = sample(nano, prompts, list(range(16)), group_size=4)
    for row in range(4):
        alone = sample(nano, prompts.rows([row]), [4 * row + 2])
        assert alone[0].token_ids.tolist() == together[4 * row + 2].token_ids.tolist()


@pytest.mark.parametrize("group_size", [1, 4])
def test_shared_prompts_give_the_answers_of_copied_ones(nano, prompts, group_size):
    options, seeds = SamplingOptions(max_new_tokens=40), list(range(4 * group_size))
    frequent = sample(nano, prompts, seeds, eos=-1, group_size=group_size)[0].token_ids.mode().values.item()
    shared, copied = (
        generate(
            nano.text, prompts, options, eos_token_id=frequent, seeds=seeds, group_size=group_size, share_prompts=share
        )
        for share in (True, False)
    )
    for a, b in zip(shared, copied, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_finished_rows_end_with_the_end_token_and_leave_the_others_unchanged(nano, prompts):
    """With a frequent token as the end token rows finish at many different steps, so that the batch is compacted."""
    unstopped = sample(nano, prompts, list(range(16)), eos=-1, tokens=60, group_size=4)
    values, counts = torch.cat([a.token_ids for a in unstopped]).unique(return_counts=True)
    eos = int(values[counts.argmax()])
    stopped = sample(nano, prompts, list(range(16)), eos=eos, tokens=60, group_size=4)
    lengths = set()
    for free, ended in zip(unstopped, stopped, strict=True):
        tokens = free.token_ids.tolist()
        expected = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
        assert ended.token_ids.tolist() == expected
        assert ended.finished == (eos in tokens)
        assert torch.allclose(ended.logprobs, free.logprobs[: len(expected)], atol=1e-5)
        lengths.add(len(expected))
    assert len(lengths) > 3


def test_an_answer_that_never_ends_is_cut_off_and_says_so(nano, prompts):
    answers = sample(nano, prompts, [0] * 4, eos=-1, tokens=5)
    assert [len(a.token_ids) for a in answers] == [5] * 4
    assert not any(a.finished for a in answers)


def test_decoding_goes_on_while_another_rank_runs(nano, prompts):
    """Under ZeRO-3 a rank that is done keeps taking part, and its answers stay as they were."""
    unstopped = sample(nano, prompts, [0] * 4, eos=-1, tokens=10)
    eos = int(unstopped[0].token_ids[0])
    asked = []

    def other_rank_needs_ten_steps(running):
        asked.append(running)
        return len(asked) < 8

    options = SamplingOptions(max_new_tokens=10)
    answers = generate(
        nano.text, prompts.rows([0]), options, eos_token_id=eos, seeds=[0], any_rank_running=other_rank_needs_ten_steps
    )
    assert answers[0].token_ids.tolist() == [eos]
    assert asked == [False] * 8


def test_wrong_number_of_seeds_is_refused(nano, prompts):
    with pytest.raises(ValueError, match="3 seeds for 4 answers"):
        sample(nano, prompts, [1, 2, 3])
