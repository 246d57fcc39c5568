"""The engine against transformers' generate and against scoring; rows neither mix nor depend on company."""

import pytest
import torch

from avrt.models.teacher_forcing import completion_states
from avrt.objectives.token_scores import score_tokens
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.rollout.branches import BranchCaches
from avrt.rollout.native import generate
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import stock_media


def sample(nano, prompts, seeds, *, eos=None, tokens=30, temperature=1.0, group_size=1):
    options = SamplingOptions(max_new_tokens=tokens, temperature=temperature)
    stop = nano.inputs.processor.tokenizer.eos_token_id if eos is None else eos
    return generate(nano.decoder, prompts, options, eos_token_id=stop, seeds=seeds, group_size=group_size)


def test_greedy_equals_transformers_generate_token_by_token(nano, batch, prompts):
    ours = sample(nano, prompts, [0] * 4, temperature=0.0)
    for i in range(4):
        ids = batch.prompt_ids[i][None]
        theirs = nano.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **stock_media(batch, i),
            max_new_tokens=30,
            do_sample=False,
        )
        assert theirs[0, ids.shape[1] :].tolist() == ours[i].token_ids.tolist()


def test_recorded_log_probabilities_equal_rescoring(nano, uneven):
    answers = sample(nano, uneven, list(range(12)), group_size=3)
    states = completion_states(nano.decoder, uneven, [a.token_ids for a in answers])
    scores = score_tokens(states.hidden_states, states.targets, nano.decoder.lm_head)
    assert torch.allclose(torch.cat([a.logprobs for a in answers]), scores.logprobs, atol=1e-5)


def test_an_answer_depends_on_its_own_prompt_and_seed_alone(nano, uneven):
    together = sample(nano, uneven, list(range(16)), group_size=4)
    for row in range(4):
        alone = sample(nano, uneven.rows([row]), [4 * row + 2])
        assert alone[0].token_ids.tolist() == together[4 * row + 2].token_ids.tolist()


@pytest.mark.parametrize("group_size", [1, 4])
def test_shared_prompts_give_the_answers_of_copied_ones(nano, uneven, group_size):
    options, seeds = SamplingOptions(max_new_tokens=40), list(range(4 * group_size))
    frequent = sample(nano, uneven, seeds, eos=-1, group_size=group_size)[0].token_ids.mode().values.item()
    shared, copied = (
        generate(
            nano.decoder, uneven, options, eos_token_id=frequent, seeds=seeds, group_size=group_size, share_prefix=share
        )
        for share in (True, False)
    )
    for a, b in zip(shared, copied, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_finished_rows_end_with_the_end_token_and_leave_the_others_unchanged(nano, uneven):
    """With a frequent token as the end token rows finish at many different steps, so that the batch is compacted."""
    unstopped = sample(nano, uneven, list(range(16)), eos=-1, tokens=60, group_size=4)
    values, counts = torch.cat([a.token_ids for a in unstopped]).unique(return_counts=True)
    eos = int(values[counts.argmax()])
    stopped = sample(nano, uneven, list(range(16)), eos=eos, tokens=60, group_size=4)
    lengths = set()
    for free, ended in zip(unstopped, stopped, strict=True):
        tokens = free.token_ids.tolist()
        expected = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
        assert ended.token_ids.tolist() == expected
        assert ended.finished == (eos in tokens)
        assert torch.allclose(ended.logprobs, free.logprobs[: len(expected)], atol=1e-5)
        lengths.add(len(expected))
    assert len(lengths) > 3


@pytest.mark.parametrize("share", [True, False])
def test_a_prompt_is_kept_once_or_for_each_answer_as_asked(nano, prompts, share):
    """What the decoder's layers keep by itself: the answers' tokens only, or the whole of each row."""
    kept = []

    def look(_module, _arguments, values, _output):
        cache = values["past_key_values"]
        held = (cache.branches, cache.tokens) if isinstance(cache, BranchCaches) else cache.layers[0].keys.shape[::2]
        kept.append((values["inputs_embeds"].shape[1], *held))

    hook = nano.decoder.language_model.register_forward_hook(look, with_kwargs=True)
    try:
        options = SamplingOptions(max_new_tokens=3)
        generate(
            nano.decoder, prompts, options, eos_token_id=-1, seeds=list(range(8)), group_size=2, share_prefix=share
        )
    finally:
        hook.remove()
    length = len(prompts.token_ids[0])
    # one row of all prompts, or a row for each
    first = (4 * length, 1, 4 * length) if share else (length, 4, length)
    assert kept == [first, *[(1, 8, n if share else length + n) for n in (1, 2)]]


def test_an_attention_that_takes_no_layouts_gets_copied_prompts(nano, uneven):
    plain = load_policy(StudentOptions(source="nano", dtype="float32", attention="eager"))
    assert not plain.decoder.supports_packing
    for ours, theirs in zip(*(sample(s, uneven, [0] * 4, tokens=8) for s in (plain, nano)), strict=True):
        assert ours.token_ids.tolist() == theirs.token_ids.tolist()


def test_everything_is_made_where_the_prompts_are(nano, uneven):
    """What names no device lands on one without data here, as it would stay on the CPU when prompts are on a GPU."""
    expected = sample(nano, uneven, [0] * 4, tokens=4)
    with torch.device("meta"):
        answers = sample(nano, uneven, [0] * 4, tokens=4)
    assert [a.token_ids.tolist() for a in answers] == [a.token_ids.tolist() for a in expected]
    assert {a.logprobs.device.type for a in answers} == {"cpu"}


def test_rows_leave_when_a_quarter_has_finished_and_not_before(nano, uneven):
    """Counted at the layers, against what the lengths of the answers say."""
    free = sample(nano, uneven, list(range(16)), eos=-1, tokens=60, group_size=4)
    values, counts = torch.cat([a.token_ids for a in free]).unique(return_counts=True)
    eos = int(values[counts.argmax()])
    lengths = [a.token_ids.tolist().index(eos) + 1 if eos in a.token_ids else 60 for a in free]
    rows, expected = [], []
    held = 16
    for step in range(1, max(lengths)):
        left = sum(n > step for n in lengths)
        held = left if left < 0.75 * held else held
        expected.append(held)
    assert len(set(expected)) > 1
    hook = nano.decoder.language_model.register_forward_hook(
        lambda m, a, k, _: rows.append(k["inputs_embeds"].shape[0]), with_kwargs=True
    )
    try:
        sample(nano, uneven, list(range(16)), eos=eos, tokens=60, group_size=4)
    finally:
        hook.remove()
    assert rows == [1, *expected]  # the prompts in one row, then a token of each


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
        nano.decoder,
        prompts.rows([0]),
        options,
        eos_token_id=eos,
        seeds=[0],
        any_rank_running=other_rank_needs_ten_steps,
    )
    assert answers[0].token_ids.tolist() == [eos]
    assert asked == [False] * 8


def test_wrong_number_of_seeds_is_refused(nano, prompts):
    with pytest.raises(ValueError, match="3 seeds for 4 completions"):
        sample(nano, prompts, [1, 2, 3])


def test_rows_that_draw_the_same_are_decoded_once_until_they_part(nano, uneven):
    """Of four rows of each prompt two have the same seed, and all have some tokens in common."""
    seeds = [number for prompt in range(4) for number in (prompt, prompt, 10 + prompt, 20 + prompt)]
    two = SamplingOptions(max_new_tokens=12, top_k=2)
    given = {"eos_token_id": -1, "seeds": seeds, "group_size": 4}
    branches = []
    hook = nano.decoder.language_model.register_forward_hook(
        lambda m, a, k, _: branches.append(k["inputs_embeds"].shape[0]), with_kwargs=True
    )
    try:
        answers = generate(nano.decoder, uneven, two, **given)
    finally:
        hook.remove()
    drawn = [answer.token_ids.tolist() for answer in answers]
    distinct = [sum(len({tuple(ids[:n]) for ids in drawn[b : b + 4]}) for b in (0, 4, 8, 12)) for n in range(1, 12)]
    assert branches == [1, *distinct]
    assert len(set(distinct)) > 1
    assert max(distinct) <= 12
    alone = generate(nano.decoder, uneven, two, share_prefix=False, **given)
    assert drawn == [answer.token_ids.tolist() for answer in alone]
    for ours, theirs in zip(answers, alone, strict=True):
        assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
