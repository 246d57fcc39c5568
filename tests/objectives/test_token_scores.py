"""Chunked scores and the response-only loss against a plain computation over full logits."""

import pytest
import torch

from avrt.models.teacher_forcing import completion_states
from avrt.objectives.token_scores import chunk_count, completion_loss, score_tokens
from tests.conftest import stock_media


@pytest.mark.parametrize("chunks", [None, 1, 3, 7, 40])
def test_scores_equal_full_logits(chunks):
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, requires_grad=True)
    project = torch.nn.Linear(8, 50, bias=False)
    targets = torch.randint(0, 50, (23,))
    scores = score_tokens(hidden, targets, project, chunks=chunks)
    logprobs = project(hidden).log_softmax(-1)
    assert torch.allclose(scores.logprobs, logprobs[torch.arange(23), targets], atol=1e-6)
    assert torch.allclose(scores.entropy, -(logprobs.exp() * logprobs).sum(-1), atol=1e-5)
    assert torch.equal(scores.correct, logprobs.argmax(-1) == targets)
    weights = torch.rand(23)
    expected = torch.autograd.grad((logprobs[torch.arange(23), targets] * weights).sum(), [hidden, project.weight])
    actual = torch.autograd.grad((scores.logprobs * weights).sum(), [hidden, project.weight])
    assert all(torch.allclose(a, e, atol=1e-5) for a, e in zip(actual, expected, strict=True))


def test_no_tokens_still_reach_the_projection():
    calls = []
    project = torch.nn.Linear(4, 9)
    project.register_forward_hook(lambda *_: calls.append(1))
    scores = score_tokens(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), project, chunks=3)
    assert [len(t) for t in (scores.logprobs, scores.entropy, scores.correct)] == [0, 0, 0]
    assert scores.correct.dtype == torch.bool
    assert len(calls) == 3  # every rank makes the same number of calls
    assert [chunk_count(n, 10) for n in (0, 1, 10, 11)] == [1, 1, 1, 2]


def test_logits_are_not_kept_for_the_backward_pass():
    project = torch.nn.Linear(8, 1000, bias=False)
    hidden = torch.randn(64, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        score_tokens(hidden, torch.randint(0, 1000, (64,)), project, chunks=4)
    assert max(kept) < 64 * 1000 / 4


def test_eq_1_against_cross_entropy_over_full_logits_of_the_stock_model(nano, batch):
    """Loss and gradient of one real batch equal transformers' own forward pass with labels."""
    text = nano.decoder
    prompts = nano.encode(batch)
    states = completion_states(text, prompts, batch.completion_ids)
    scores = score_tokens(states.hidden_states, states.targets, text.lm_head)
    total = len(states.targets)
    ours = completion_loss(scores.logprobs, torch.ones(total), total)

    summed = torch.zeros(())
    for i in range(len(batch)):
        ids = torch.cat([batch.prompt_ids[i], batch.completion_ids[i]])[None]
        logits = nano.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **stock_media(batch, i),
        ).logits[0]
        labels = ids[0].clone()
        labels[: len(batch.prompt_ids[i])] = -100
        summed = summed + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
    theirs = summed / total
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    weight = nano.model.model.language_model.layers[0].mlp.up_proj.weight
    (a,), (b,) = torch.autograd.grad(ours, [weight]), torch.autograd.grad(theirs, [weight])
    assert torch.allclose(a, b, atol=1e-6, rtol=1e-4)


def test_filler_tokens_weigh_nothing():
    logprobs = torch.tensor([-1.0, -2.0, -5.0])
    assert completion_loss(logprobs, torch.tensor([1.0, 1.0, 0.0]), 2).item() == pytest.approx(1.5)


def test_scores_of_bfloat16_logits_are_computed_in_float32():
    """The projection rounds; nothing after it does. Expected values come from float64 over the rounded logits."""
    torch.manual_seed(0)
    project = torch.nn.Linear(16, 300, bias=False).bfloat16()
    hidden, targets = (torch.randn(9, 16) * 3).bfloat16(), torch.randint(0, 300, (9,))
    exact = project(hidden).detach().double().log_softmax(-1)
    scores = score_tokens(hidden, targets, project)
    assert scores.logprobs.dtype == scores.entropy.dtype == torch.float32
    assert torch.allclose(scores.logprobs.double(), exact[torch.arange(9), targets], atol=1e-5)
    assert torch.allclose(scores.entropy.double(), -(exact.exp() * exact).sum(-1), atol=1e-5)


def test_only_the_log_probabilities_carry_a_gradient():
    hidden = torch.randn(5, 4, requires_grad=True)
    project = torch.nn.Linear(4, 9)
    scores = score_tokens(hidden, torch.arange(5), project)
    assert scores.logprobs.requires_grad
    assert not scores.entropy.requires_grad
    assert not scores.correct.requires_grad
    with torch.no_grad():
        assert not score_tokens(hidden, torch.arange(5), project).logprobs.requires_grad


@pytest.mark.parametrize(("tokens", "calls"), [(0, 1), (1, 1), (1024, 1), (1025, 2), (2049, 3)])
def test_chunks_have_at_most_1024_tokens(tokens, calls):
    sizes = []
    project = torch.nn.Linear(1, 3)
    project.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    with torch.no_grad():
        scores = score_tokens(torch.zeros(tokens, 1), torch.zeros(tokens, dtype=torch.long), project)
    assert len(sizes) == calls == chunk_count(tokens)
    assert sum(sizes) == tokens == len(scores.logprobs)
    assert max(sizes) <= 1024
