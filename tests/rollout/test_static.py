"""Decoding in buffers of fixed shape gives what growing caches give, batch after batch, compiled or not."""

import pytest
import torch

from avrt.models.scoring import Prompts
from avrt.rollout.engine import generate
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.static import StaticDecoder


@pytest.fixture
def prompts(nano, batch):
    return Prompts(batch.prompt_ids, batch.prompt_positions, nano.encode(batch))


def answers(nano, prompts, decoder, seeds, group_size, tokens=24):
    eos = nano.processor.tokenizer.encode(" the")[0]
    options = SamplingOptions(max_new_tokens=tokens)
    return generate(
        nano.text, prompts, options, eos_token_id=eos, seeds=seeds, group_size=group_size, decoder=decoder
    )  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_answers_equal_those_of_growing_caches(nano, prompts, compiled):
    decoder = StaticDecoder(compiled=compiled)
    short = prompts.rows([3, 2, 1, 0])
    for batch, first in ((prompts, 0), (short, 100), (prompts, 200)):  # buffers are used again
        seeds = list(range(first, first + 12))
        for ours, plain in zip(
            answers(nano, batch, decoder, seeds, 3), answers(nano, batch, None, seeds, 3), strict=True
        ):
            assert ours.token_ids.tolist() == plain.token_ids.tolist()
            assert torch.allclose(ours.logprobs, plain.logprobs, atol=1e-5)
            assert ours.finished == plain.finished


def test_buffers_are_kept_from_batch_to_batch_and_replaced_when_they_do_not_fit(nano, prompts):
    decoder = StaticDecoder(compiled=False)
    answers(nano, prompts, decoder, list(range(8)), 2)
    first = decoder._buffers
    answers(nano, prompts, decoder, list(range(8)), 2)
    assert decoder._buffers is first
    answers(nano, prompts.rows([0, 1]), decoder, list(range(4)), 2)
    assert decoder._buffers is not first


def test_a_step_is_compiled_once(nano, prompts):
    torch._dynamo.reset()
    decoder = StaticDecoder(compiled=True)
    torch._dynamo.utils.counters.clear()
    answers(nano, prompts, decoder, list(range(8)), 2)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    answers(nano, prompts, decoder, list(range(8, 16)), 2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs == 1
    assert not torch._dynamo.utils.counters["graph_break"]
