"""The clipped objective and the k3 KL against hand-worked numbers and closed forms."""

import math

import pytest
import torch

from avrt.objectives.policy import PolicyLoss, k3_divergence, sequence_mean


def test_k3_hand_worked_and_never_negative():
    pi, ref = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.0, -1.0, -2.5])
    expected = [0.0, math.e - 1 - 1, math.exp(-2) + 2 - 1]
    assert k3_divergence(pi, ref).tolist() == pytest.approx(expected)
    assert (k3_divergence(torch.randn(100), torch.randn(100)) >= 0).all()


def test_k3_is_an_unbiased_estimate_of_the_divergence():
    torch.manual_seed(0)
    p, q = torch.randn(2, 6).softmax(-1)
    exact = (p * (p / q).log()).sum()
    drawn = torch.multinomial(p, 200_000, replacement=True)
    assert k3_divergence(p.log()[drawn], q.log()[drawn]).mean().item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.1, 1.0, -1.1, -1.1, 0),
        (1.5, 1.0, -1.2, 0.0, 1),  # better than enough already: clipped
        (0.5, 1.0, -0.5, -0.5, 0),  # min takes the unclipped side
        (0.5, -1.0, 0.8, 0.0, 1),
        (1.5, -1.0, 1.5, 1.5, 0),
    ],
)
def test_clipped_objective_and_its_gradient(ratio, advantage, loss, gradient, clipped):
    logprobs = torch.tensor([math.log(ratio)], requires_grad=True)
    value, metrics = PolicyLoss(clip=0.2, beta=0.0)(logprobs, torch.zeros(1), None, torch.tensor([advantage]))
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)  # d ratio / d log p = ratio
    assert metrics["clipped"].item() == clipped


def test_kl_is_added_with_its_weight_and_needs_a_reference():
    pi = torch.tensor([-1.0], requires_grad=True)
    value, metrics = PolicyLoss(beta=0.5)(pi, pi.detach(), torch.tensor([-2.0]), torch.tensor([0.0]))
    assert value.item() == pytest.approx(0.5 * (math.exp(-1) + 1 - 1))
    assert metrics["kl"].item() == pytest.approx(math.exp(-1))
    value.backward()
    assert pi.grad.item() == pytest.approx(0.5 * (1 - math.exp(-1)))
    with pytest.raises(ValueError, match="reference"):
        PolicyLoss(beta=0.5)(pi, pi.detach(), None, torch.zeros(1))


def test_mean_over_a_sequence_then_over_sequences():
    values, rows = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 2])
    assert sequence_mean(values, rows, 3).tolist() == [2.0, 0.0, 10.0]
