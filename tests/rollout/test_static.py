"""Decoding in buffers of fixed shape gives what growing caches give, batch after batch, compiled or not."""

import gc
import weakref

import pytest
import torch

from avrt.rollout import static as static_module
from avrt.rollout.native import generate
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.static import StaticDecoder


def answers(nano, prompts, decoder, seeds, group_size, tokens=24, eos=-1):
    options = SamplingOptions(max_new_tokens=tokens)
    return generate(
        nano.decoder, prompts, options, eos_token_id=eos, seeds=seeds, group_size=group_size, static=decoder
    )  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_answers_equal_those_of_growing_caches(nano, uneven, compiled):
    """Prompts of different lengths, and an end token so frequent that rows finish at many different steps."""
    decoder = StaticDecoder(compiled=compiled)
    # Buffers are used again: the longest prompt in other rows, and a batch in which all are shorter than the buffers.
    batches = (uneven, uneven.rows([3, 2, 1, 0]), uneven.rows([0, 2, 2, 3]))
    lengths = set()
    for number, batch in enumerate(batches):
        seeds = list(range(100 * number, 100 * number + 12))
        free = torch.cat([a.token_ids for a in answers(nano, batch, None, seeds, 3)])
        eos = int(free.mode().values)
        both = (answers(nano, batch, d, seeds, 3, eos=eos) for d in (decoder, None))
        for ours, plain in zip(*both, strict=True):
            assert ours.token_ids.tolist() == plain.token_ids.tolist()
            assert torch.allclose(ours.logprobs, plain.logprobs, atol=1e-5)
            assert ours.finished == plain.finished
            lengths.add((number, len(plain.token_ids)))
    assert len(lengths) > 9


def test_buffers_are_kept_from_batch_to_batch_and_replaced_when_they_do_not_fit(nano, prompts):
    decoder = StaticDecoder(compiled=False)
    answers(nano, prompts, decoder, list(range(8)), 2)
    first = decoder._context
    answers(nano, prompts, decoder, list(range(8)), 2)
    assert decoder._context is first
    answers(nano, prompts.rows([0, 1]), decoder, list(range(4)), 2)  # the other slots stay empty
    assert decoder._context is first
    kept = weakref.ref(first)
    del first
    gc.disable()
    try:
        answers(nano, prompts.rows([0, 1]), decoder, list(range(6)), 3)
        assert kept() is None or not hasattr(kept(), "_caches")  # its memory has gone, without the collector
    finally:
        gc.enable()


def test_a_step_is_compiled_once(nano, prompts):
    torch._dynamo.reset()
    decoder = StaticDecoder(compiled=True)
    torch._dynamo.utils.counters.clear()
    answers(nano, prompts, decoder, list(range(8)), 2)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    answers(nano, prompts, decoder, list(range(8, 16)), 2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_waiting_prompts_take_the_rows_of_finished_ones(nano, uneven, at_once):
    """The same answers as all at once, in fewer steps than batch after batch would take."""
    prompts, seeds = uneven.rows([0, 1, 2, 3, 1, 0, 3, 2]), list(range(8))

    def ask(eos, decoder=None, **options):
        sampling = SamplingOptions(max_new_tokens=60, top_k=4, **options)  # few tokens, so that they come again
        return generate(nano.decoder, prompts, sampling, eos_token_id=eos, seeds=seeds, static=decoder)

    free = [a.token_ids.tolist() for a in ask(-1)]
    # the token that would end them at the most different places
    eos = max({t for row in free for t in row}, key=lambda t: len({row.index(t) for row in free if t in row}))
    expected = ask(eos)
    steps = []
    hook = nano.decoder.language_model.register_forward_hook(
        lambda m, a, k, _: steps.append(tuple(k["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    try:
        found = ask(eos, StaticDecoder(compiled=False), prompts_at_once=at_once)
    finally:
        hook.remove()
    for ours, plain in zip(found, expected, strict=True):
        assert ours.token_ids.tolist() == plain.token_ids.tolist()
        assert torch.allclose(ours.logprobs, plain.logprobs, atol=1e-5)
        assert ours.finished == plain.finished
    lengths = [len(a.token_ids) - 1 for a in expected]
    assert len(set(lengths)) > 2
    taken = sum(shape == (at_once, 1) for shape in steps)
    in_batches = sum(max(lengths[i : i + at_once]) for i in range(0, 8, at_once))
    assert taken <= in_batches
    if at_once == 2:
        assert taken < in_batches


def test_buffers_have_room_for_the_longest_prompt_from_the_start_where_it_is_known(nano, uneven):
    decoder = StaticDecoder(compiled=False, prompt_room=700)
    answers(nano, uneven.rows([0]), decoder, [0, 1], 2)
    first = decoder._context
    answers(nano, uneven.rows([1]), decoder, [0, 1], 2)
    assert decoder._context is first
    unknown = StaticDecoder(compiled=False)
    answers(nano, uneven.rows([0]), unknown, [0, 1], 2)
    assert unknown._context._room == 512


def test_prompts_at_once_is_refused_with_growing_caches():
    with pytest.raises(ValueError, match="prompts_at_once"):
        SamplingOptions(decoding="dynamic", prompts_at_once=2)


def test_growing_prompts_are_compiled_for_twice_at_most(nano, uneven, monkeypatch):
    """The second time with lengths that may change, and then never again."""
    monkeypatch.setattr(static_module, "PROMPT_MULTIPLE", 16)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    decoder = StaticDecoder(compiled=True)
    rooms = set()
    for row in sorted(range(4), key=lambda row: uneven.lengths[row]):
        answers(nano, uneven.rows([row]), decoder, [0, 1], 2)
        rooms.add(decoder._context._room)
    assert len(rooms) == 4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
