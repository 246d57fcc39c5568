"""A packed group gives the numbers of separate rows: hidden states, log-probabilities and gradients."""

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.models.flex import flex_packed_attention
from avrt.models.packing import pack_groups, packed_attention
from avrt.models.teacher_forcing import completion_states
from avrt.objectives.token_scores import score_tokens
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample


@pytest.fixture
def mixed(nano, builder, batch):
    """Three prompts: video with interleaved sound, picture with sound, sound alone."""
    clip = batch.clips[0]
    media = [(("video", "audio"), clip), (("image", "audio"), Clip(image=clip.frames[2], audio=clip.audio[:16_000])),
             (("audio",), Clip(audio=clip.audio))]  # fmt: skip
    return collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])


def ragged(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(300, 800, (n,), generator=generator) for n in lengths]


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([5, 17, 1, 9, 12, 3, 30, 2, 8, 8, 8, 8], id="ragged"),
        pytest.param([1, 1, 1, 1, 4, 1, 1, 9, 1, 1, 1, 2], id="one-token-answers"),
        pytest.param([0, 5, 3, 0, 6, 2, 0, 0, 0, 0, 0, 0], id="empty-answers"),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_equal_to_separate_rows_with_gradients(mixed, lengths, checkpointing):
    student = load_policy(StudentOptions(source="nano", dtype="float32", gradient_checkpointing=checkpointing)).train()
    responses = ragged(lengths)
    weights = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(1))
    results = []
    for packed in (True, False):
        prompts = student.encode(mixed)
        states = completion_states(student.decoder, prompts, responses, packed=packed)
        scores = score_tokens(states.hidden_states, states.targets, student.decoder.lm_head)
        (scores.logprobs * weights).sum().backward()
        gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
        student.zero_grad()
        results.append((states, scores, gradients))
    (packed_states, packed_scores, packed_gradients), (states, scores, gradients) = results
    assert torch.equal(packed_states.completion_index, states.completion_index)
    assert torch.equal(packed_states.targets, states.targets)
    assert torch.allclose(packed_scores.logprobs, scores.logprobs, rtol=1e-5, atol=1e-5)
    assert torch.allclose(packed_scores.entropy, scores.entropy, rtol=1e-5, atol=1e-5)
    for a, b in zip(packed_gradients, gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-7


def test_bfloat16_stays_within_its_own_rounding(mixed):
    """Both ways round differently; neither is further from float32 than the other by more than a factor of two."""
    exact = load_policy(StudentOptions(source="nano", dtype="float32"))
    rounded = load_policy(StudentOptions(source="nano", dtype="bfloat16"))
    responses = ragged([5, 17, 1, 9, 12, 3])

    def logprobs(student, packed):
        prompts = student.encode(mixed)
        states = completion_states(student.decoder, prompts, responses, packed=packed)
        return score_tokens(states.hidden_states, states.targets, student.decoder.lm_head).logprobs.detach()

    truth = logprobs(exact, False)
    errors = [(logprobs(rounded, packed) - truth).abs().mean().item() for packed in (True, False)]
    assert errors[0] < 2 * errors[1] < 0.2


def test_answers_do_not_see_each_other(nano, mixed):
    prompts = nano.encode(mixed).rows([0])
    one, two, other = ragged([6, 6, 6])
    with torch.no_grad():
        first = completion_states(nano.decoder, prompts, [one, two]).hidden_states
        second = completion_states(nano.decoder, prompts, [one, other]).hidden_states
    assert torch.allclose(first[:6], second[:6], atol=1e-6)
    assert not torch.allclose(first[6:], second[6:], atol=1e-3)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("attend", [packed_attention, flex_packed_attention])
def test_attention_against_a_dense_mask(attend):
    """The two-part computation, and FlexAttention's, equal one attention under the mask that they avoid building."""
    torch.manual_seed(0)
    prompts, answers = [4, 3, 2], [[2, 0, 5], [1, 1, 1], [3, 0, 0]]
    row = pack_groups(prompts, answers, torch.device("cpu"))
    total = sum(g.length for g in row.groups)
    owner, part = [], []
    for g, (prompt, lengths) in enumerate(zip(prompts, answers, strict=True)):
        for a, n in enumerate([prompt, *lengths]):
            owner += [g] * n
            part += [a] * n
    owner, part, place = torch.tensor(owner), torch.tensor(part), torch.arange(total)
    mask = (owner[:, None] == owner) & (place[:, None] >= place) & ((part[:, None] == part) | (part == 0))
    query, key, value = torch.randn(1, 4, total, 8), torch.randn(1, 2, total, 8), torch.randn(1, 2, total, 8)
    repeated = [t.repeat_interleave(2, dim=1) for t in (key, value)]
    dense = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    packed = attend(query, key, value, row, 0.3)
    assert torch.allclose(packed[0].transpose(0, 1), dense[0], atol=1e-6)


def test_flex_attention_scores_like_the_two_part_attention(nano, mixed):
    """Three groups in a row, through the whole model; without gradients, which FlexAttention has on a GPU only."""
    flexible = load_policy(StudentOptions(source="nano", dtype="float32", attention="flex"))
    prompts = nano.encode(mixed).rows([0, 1, 2])
    answers = ragged([6, 1, 0, 3, 5, 9])
    with torch.no_grad():
        expected = completion_states(nano.decoder, prompts, answers).hidden_states
        assert torch.allclose(completion_states(flexible.decoder, prompts, answers).hidden_states, expected, atol=1e-5)
