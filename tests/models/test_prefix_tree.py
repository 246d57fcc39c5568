"""Completions that begin alike are read once, and give the numbers and gradients of separate rows."""

import torch

from avrt.models.prefix_tree import prefix_tree
from avrt.models.teacher_forcing import completion_states
from avrt.objectives.token_scores import score_tokens
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions

ALIKE = [[300, 301, 302, 303, 304], [300, 301, 302, 310], [300, 301, 302, 303, 304], [300, 301, 302, 303]]


def test_the_tree_by_hand():
    tree = prefix_tree([[7, 8, 9], [7, 8, 5], [7, 8, 9], []])
    assert tree.tokens == [7, 8]
    assert tree.depths == [0, 1]
    assert tree.counts == [[0, 1, 2], [0, 1, 2]]
    assert tree.readers == [-1, 0, 1] * 3
    assert tree.firsts == [0, 1, 2, 0, 1, 5, 0, 1, 2]
    assert tree.sees.tolist() == [[True, False], [True, True]]
    assert tree.mask(3, 2).tolist() == [[False, False, True, True, False], [False, False, False, True, True]]


def test_completions_that_have_little_in_common_make_no_tree():
    assert prefix_tree([[1, 2, 3, 4], [1, 5, 6, 7]]) is None
    assert prefix_tree([[1], [1]]) is None
    assert prefix_tree([[], []]) is None


def test_the_numbers_are_those_of_separate_rows(batch):
    """One group is a tree, the other is not."""
    student = load_policy(StudentOptions(source="nano", dtype="float32"))
    prompts = student.encode(batch).rows([0, 1])
    other = [[400 + 10 * i + j for j in range(n)] for i, n in enumerate((3, 1, 4, 2))]
    completions = [torch.tensor(ids) for ids in (*ALIKE, *other)]
    weights = torch.randn(sum(map(len, completions)), generator=torch.Generator().manual_seed(0))
    results = []
    for packed in (True, False):
        states = completion_states(student.decoder, prompts, completions, packed=packed)
        assert (states.distinct is not None) == packed
        scores = score_tokens(*states.to_score(), student.decoder.logits)
        logprobs = states.of_each(scores.logprobs)
        (logprobs * weights).sum().backward()
        results.append((logprobs.detach(), [p.grad.clone() for p in student.parameters() if p.grad is not None]))
        student.zero_grad()
    (ours, our_gradients), (theirs, their_gradients) = results
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-7
