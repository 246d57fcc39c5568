"""Whatever takes the fused kernel on a GPU gives what the other paths give: by the kernel's arithmetic on the CPU."""

import pytest
import torch

from avrt.models.fused_prefix import FusedPrefix, Rooms, fused_prefix_attention, key_ends
from avrt.models.teacher_forcing import completion_states
from avrt.objectives.token_scores import score_tokens
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from tests.models.varlen_on_cpu import varlen_on_cpu


def test_rooms_by_hand():
    assert key_ends(torch.tensor([3, 1, 5]), 5, 1).tolist() == [0, 3, 5, 6, 10, 15, 15]
    assert key_ends(torch.tensor([2, 2]), 2, 1).tolist() == [0, 2, 2, 4, 4]
    assert key_ends(torch.tensor([7, 1]), 8, 2).tolist() == [0, 3, 7, 8, 8, 9, 16]
    assert key_ends(torch.tensor([1]), 2, 1).dtype == torch.int32
    rooms = Rooms.of(torch.tensor([300, 2]), 400, 6, 2)
    assert rooms.parts == 3
    assert rooms.keys.query_ends.tolist() == [0, 6, 12, 18, 18, 24, 30, 36, 36]
    assert Rooms.of(torch.ones(200, dtype=torch.long), 4000, 6, 2).parts == 1  # enough blocks without


@pytest.mark.parametrize("window", [None, 1, 40, 300])
@pytest.mark.parametrize("group_size", [1, 3])
def test_attention_over_keys_in_parts(group_size, window):
    """Against one dense attention per row, with prompts shorter than the number of parts; a group has drawn alike."""
    generator = torch.Generator().manual_seed(0)
    room, steps, heads, width, lengths, own = (
        700,
        260,
        2,
        8,
        [700, 1, 333, 4],
        (torch.arange(4) * 20 + 1).repeat_interleave(group_size),
    )
    rows = 4 * group_size

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    held, of_prompt, of_row = torch.tensor(lengths), None, None
    if window is not None:
        of_prompt = (held + own[::group_size] - window).clamp(min=0).minimum(held)
        of_row = (own - window).clamp(min=0)
    prompts = Rooms.of(held, room, group_size * 3, heads, of_prompt)
    completions = Rooms.of(own, steps, 3, heads, of_row)
    assert (prompts.parts, completions.parts) == (5, 2)
    keys, values = draw(4 * room, heads, width), draw(4 * room, heads, width)
    query, key, value = draw(rows, 6, 1, width), draw(rows * steps, heads, width), draw(rows * steps, heads, width)
    with varlen_on_cpu():
        prefix = FusedPrefix([keys], [values], [prompts], [completions], (0,))
        found = fused_prefix_attention(0, query, key, value, prefix, 0.5)
    for row in range(rows):
        prompt, first = row // group_size * room, row * steps
        parts = (slice(prompt, prompt + lengths[row // group_size]), slice(first, first + int(own[row])))
        k, v = (
            torch.cat([a[parts[0]], b[parts[1]]])[-(window or 10**9) :].repeat_interleave(3, 1).double()
            for a, b in ((keys, key), (values, value))
        )
        weights = (torch.einsum("hd,khd->hk", query[row, :, 0].double(), k) * 0.5).softmax(-1)
        expected = torch.einsum("hk,khd->hd", weights, v)
        assert (found[row, 0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("lengths", [[9, 30, 1, 17, 5, 22, 40, 3], [1, 1, 0, 4, 0, 0, 2, 1]])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_gradients_of_packed_groups(mixed, lengths, checkpointing):
    generator = torch.Generator().manual_seed(0)
    completions = [torch.randint(300, 800, (n,), generator=generator) for n in lengths]
    student = load_policy(StudentOptions(source="nano", dtype="float32", gradient_checkpointing=checkpointing)).train()
    prompts = student.encode(mixed)

    def run():
        student.zero_grad()
        states = completion_states(student.decoder, prompts, completions)
        scores = score_tokens(states.hidden_states, states.targets, student.decoder.lm_head).logprobs
        (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
        return scores.detach(), [p.grad.clone() for p in student.parameters() if p.grad is not None]

    expected, gradients = run()
    with varlen_on_cpu() as calls:
        found, fused = run()
    # one call a layer, and one more where the layer is computed again; a sequence for each prompt and completion
    assert calls == [len(prompts) + sum(n > 1 for n in lengths)] * (8 if checkpointing else 4)
    assert torch.allclose(found, expected, atol=1e-5)
    for one, other in zip(fused, gradients, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-7


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("at_once", [0, 2])
def test_decoding_in_fixed_buffers(nano, mixed, group_size, at_once):
    """Also with an end token so frequent that rows finish at many different steps, twice in the same buffers."""
    prompts = nano.encode(mixed)
    free = SamplingOptions(max_new_tokens=30, decoding="dynamic")
    seeds = list(range(len(prompts) * group_size))
    drawn = torch.cat([c.token_ids for c in nano.generate(prompts, free, seeds=seeds, group_size=group_size)])
    eos = int(drawn.mode().values)
    student = load_policy(StudentOptions(source="nano", dtype="float32"))
    student.inputs.tokenizer.eos_token_id, before = eos, student.inputs.tokenizer.eos_token_id
    try:
        for number in range(2):
            seeds = [seed + 50 * number for seed in seeds]
            expected = student.generate(prompts, free, seeds=seeds, group_size=group_size)
            fixed = SamplingOptions(max_new_tokens=30, decoding="static", prompts_at_once=at_once)
            with varlen_on_cpu() as calls:
                found = student.generate(prompts, fixed, seeds=seeds, group_size=group_size)
            slots = at_once or len(prompts)
            # a prompt's room of 512 in four parts, a row's own keys in one, and of each what is left
            assert {5 * slots, 2 * slots * group_size} <= set(calls)
            for one, other in zip(found, expected, strict=True):
                assert one.token_ids.tolist() == other.token_ids.tolist()
                assert one.finished == other.finished
                assert torch.allclose(one.logprobs, other.logprobs, atol=1e-5)
    finally:
        student.inputs.tokenizer.eos_token_id = before


def test_towers_take_one_call_a_layer(nano, mixed):
    expected = nano.encode(mixed).features
    with varlen_on_cpu() as calls:
        found = nano.encode(mixed).features
    assert len(calls) == 4  # two layers each
    for one, other in zip([*found.vision, *found.audio], [*expected.vision, *expected.audio], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5)
