"""Every policy loss against numbers worked by hand from its paper, and the KL estimators against closed forms."""

import math

import pytest
import torch

from avrt.objectives.policy_loss import PolicyLoss, StepTotals, kl_divergence, sequence_mean

ONE = torch.zeros(1, dtype=torch.long)


def test_k3_hand_worked_and_never_negative():
    pi, ref = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.0, -1.0, -2.5])
    expected = [0.0, math.e - 1 - 1, math.exp(-2) + 2 - 1]
    assert kl_divergence(pi, ref).tolist() == pytest.approx(expected)
    assert (kl_divergence(torch.randn(100), torch.randn(100)) >= 0).all()
    assert kl_divergence(pi, ref, "k1").tolist() == pytest.approx([0.0, -1.0, 2.0])
    assert kl_divergence(pi, ref, "k2").tolist() == pytest.approx([0.0, 0.5, 2.0])
    with pytest.raises(ValueError, match="k4"):
        kl_divergence(pi, ref, "k4")


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased_estimates_of_the_divergence(estimator):
    torch.manual_seed(0)
    p, q = torch.randn(2, 6).softmax(-1)
    exact = (p * (p / q).log()).sum()
    drawn = torch.multinomial(p, 200_000, replacement=True)
    estimate = kl_divergence(p.log()[drawn], q.log()[drawn], estimator).mean()
    assert estimate.item() == pytest.approx(exact.item(), rel=0.02)


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
    value, metrics = PolicyLoss(beta=0.0)(logprobs, torch.zeros(1), None, torch.tensor([advantage]), ONE, 1)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)  # d ratio / d log p = ratio
    assert metrics["clipped"].item() == clipped


def test_kl_is_added_with_its_weight_and_needs_a_reference():
    pi = torch.tensor([-1.0], requires_grad=True)
    value, metrics = PolicyLoss(beta=0.5)(pi, pi.detach(), torch.tensor([-2.0]), torch.tensor([0.0]), ONE, 1)
    assert value.item() == pytest.approx(0.5 * (math.exp(-1) + 1 - 1))
    assert metrics["kl"].item() == pytest.approx(math.exp(-1))
    value.backward()
    assert pi.grad.item() == pytest.approx(0.5 * (1 - math.exp(-1)))
    with pytest.raises(ValueError, match="reference"):
        PolicyLoss(beta=0.5)(pi, pi.detach(), None, torch.zeros(1), ONE, 1)


# Two answers: the first of two tokens with ratios 1.5 and 1.0, advantage 1; the second of one token, ratio 0.5,
# advantage -1. Four tokens at most.
SEQUENCES = torch.tensor([0, 0, 1])
RATIOS, ADVANTAGES = torch.tensor([1.5, 1.0, 0.5]), torch.tensor([1.0, 1.0, -1.0])
TOTALS = StepTotals(completions=2, tokens=3, longest=4)
GSPO = 1.5**0.5  # geometric mean of 1.5 and 1.0


@pytest.mark.parametrize(
    ("objective", "expected", "gradient"),
    [
        # tokens -1.2 (clipped), -1.0; 0.8 (clipped): ((-1.2 - 1.0) / 2 + 0.8) / 2
        pytest.param(PolicyLoss(beta=0), (-1.1 + 0.8) / 2, [0, -1 / 4, 0], id="grpo"),
        # the same tokens, summed, over 2 answers x 4 tokens
        pytest.param(PolicyLoss("dr_grpo", beta=0), (-2.2 + 0.8) / 8, [0, -1 / 8, 0], id="dr_grpo"),
        # clip from above at 1.6, so the first token is not clipped; mean over 3 tokens
        pytest.param(
            PolicyLoss("dapo", epsilon_high=0.6, beta=0), (-1.5 - 1.0 + 0.8) / 3, [-1.5 / 3, -1 / 3, 0], id="dapo"
        ),
        # one ratio of 1.2247 for the first answer: clipped at 1.2; wide clip below leaves 0.5 as it is
        pytest.param(
            PolicyLoss("gspo", epsilon=0.6, epsilon_high=0.2, beta=0), (-1.2 + 0.5) / 2, [0, 0, 0.25], id="gspo"
        ),
        pytest.param(
            PolicyLoss("gspo", epsilon=0.6, epsilon_high=0.5, beta=0),
            (-GSPO + 0.5) / 2,
            [-GSPO / 4, -GSPO / 4, 0.25],
            id="gspo-unclipped",
        ),
        # weights 1.2 (clipped), 1.0, 0.5 on -A log p, log p = log ratio: every token keeps a gradient
        pytest.param(
            PolicyLoss("cispo", beta=0),
            (-1.2 * math.log(1.5) + 0.5 * math.log(0.5)) / 3,
            [-1.2 / 3, -1 / 3, 0.5 / 3],
            id="cispo",
        ),
    ],
)
def test_variants_by_hand(objective, expected, gradient):
    logprobs = RATIOS.log().requires_grad_()
    token_loss, _ = objective(logprobs, torch.zeros(3), None, ADVANTAGES, SEQUENCES, 2)
    loss = objective.average(token_loss, SEQUENCES, torch.ones(2), TOTALS)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert logprobs.grad.tolist() == pytest.approx(gradient)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"])
def test_shares_of_micro_batches_add_up_and_invalid_answers_weigh_nothing(loss_type):
    objective = PolicyLoss(loss_type, beta=0)
    token_loss = torch.tensor([1.0, 2.0, 5.0, 100.0])
    sequences, valid = torch.tensor([0, 0, 1, 2]), torch.tensor([1.0, 1.0, 0.0])
    whole = objective.average(token_loss, sequences, valid, TOTALS)
    parts = objective.average(token_loss[:2], sequences[:2], valid[:1], TOTALS)
    parts = parts + objective.average(token_loss[2:], sequences[2:] - 1, valid[1:], TOTALS)
    assert whole.item() == pytest.approx(parts.item())


def test_only_dr_grpo_leaves_the_deviation_out():
    assert not PolicyLoss("dr_grpo").normalizes_std
    assert PolicyLoss("dapo").normalizes_std


def test_mean_over_a_sequence_then_over_sequences():
    values, rows = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 2])
    assert sequence_mean(values, rows, 3).tolist() == [2.0, 0.0, 10.0]


def test_importance_correction_weighs_the_policy_term_and_is_truncated():
    """pi_old / pi_sampler = 1.5, then 4 cut to 2; the KL term is not weighed."""
    old = torch.log(torch.tensor([0.3, 0.4]))
    sampler = torch.log(torch.tensor([0.2, 0.1]))
    pi = old.clone().requires_grad_()
    sequences, advantages = torch.tensor([0, 0]), torch.tensor([1.0, 1.0])
    objective = PolicyLoss(beta=0.0, importance_sampling_cap=2.0)
    loss, metrics = objective(pi, old, None, advantages, sequences, 1, sampler)
    assert metrics["importance"].tolist() == pytest.approx([1.5, 2.0])
    assert loss.tolist() == pytest.approx([-1.5, -2.0])
    loss.sum().backward()
    assert pi.grad.tolist() == pytest.approx([-1.5, -2.0])
    with_kl, _ = PolicyLoss(beta=1.0, importance_sampling_cap=2.0)(pi, old, old - 1, advantages, sequences, 1, sampler)
    assert with_kl.tolist() == pytest.approx([-1.5 + math.exp(-1), -2.0 + math.exp(-1)])
    plain, metrics = PolicyLoss(beta=0.0)(pi, old, None, advantages, sequences, 1, sampler)
    assert plain.tolist() == pytest.approx([-1.0, -1.0])
    assert "importance" not in metrics


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # valid answers: tokens 1 and 2 (mean 1.5, sum 3) and 5; the answer of 100 and 300 counts for nothing
        ("grpo", (1.5 + 5) / 2),
        ("gspo", (1.5 + 5) / 2),
        ("dapo", (1 + 2 + 5) / 3),
        ("cispo", (1 + 2 + 5) / 3),
        ("dr_grpo", (1 + 2 + 5) / (2 * 4)),
    ],
)
def test_answers_that_are_not_valid_weigh_nothing_by_hand(loss_type, expected):
    token_loss = torch.tensor([100.0, 1.0, 2.0, 5.0, 300.0], requires_grad=True)
    sequences, valid = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0.0, 1.0, 1.0])
    loss = PolicyLoss(loss_type, beta=0).average(token_loss, sequences, valid, TOTALS)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert token_loss.grad[[0, 4]].tolist() == [0.0, 0.0]
    assert (token_loss.grad[[1, 2, 3]] > 0).all()


@pytest.mark.parametrize(
    ("objective", "clipped"),
    [
        (PolicyLoss("cispo", beta=0), [1, 0, 0]),  # whatever the advantage: only from above
        (PolicyLoss("cispo", epsilon_high=0.6, beta=0), [0, 0, 0]),
        (PolicyLoss("grpo", beta=0), [1, 0, 1]),
        (PolicyLoss("gspo", epsilon=0.6, epsilon_high=0.2, beta=0), [1, 1, 0]),
    ],
)
def test_which_tokens_are_told_to_be_clipped(objective, clipped):
    _, metrics = objective(RATIOS.log(), torch.zeros(3), None, ADVANTAGES, SEQUENCES, 2)
    assert metrics["clipped"].tolist() == clipped


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"])
def test_metrics_carry_no_gradient_and_tell_the_ratio(loss_type):
    pi, old = RATIOS.log().requires_grad_(), torch.zeros(3, requires_grad=True)
    objective = PolicyLoss(loss_type, beta=0.1, importance_sampling_cap=2.0)
    _, metrics = objective(pi, old, torch.full((3,), -1.0), ADVANTAGES, SEQUENCES, 2, torch.full((3,), -0.5))
    assert set(metrics) == {"ratio", "clipped", "kl", "importance"}
    assert not any(value.requires_grad for value in metrics.values())
    assert metrics["ratio"].tolist() == pytest.approx([GSPO, GSPO, 0.5] if loss_type == "gspo" else [1.5, 1.0, 0.5])
    assert metrics["importance"].tolist() == pytest.approx([math.exp(0.5)] * 3)


def test_defaults_are_those_of_the_paper():
    objective = PolicyLoss()
    assert (objective.loss_type, objective.epsilon, objective.epsilon_high) == ("grpo", 0.2, None)
    assert (objective.beta, objective.kl, objective.importance_sampling_cap) == (0.01, "k3", 0.0)
    assert objective.normalizes_std


def test_no_correction_without_the_samplers_log_probabilities_and_none_without_a_cap():
    sampler = torch.full((3,), -0.5)
    arguments = (RATIOS.log(), torch.zeros(3), None, ADVANTAGES, SEQUENCES, 2)
    plain, _ = PolicyLoss(beta=0)(*arguments)
    for objective, recorded in ((PolicyLoss(beta=0), sampler), (PolicyLoss(beta=0, importance_sampling_cap=2.0), None)):
        loss, metrics = objective(*arguments, recorded)
        assert torch.equal(loss, plain)
        assert "importance" not in metrics


def test_on_policy_nothing_counts_as_clipped_even_without_room_above():
    """A ratio of exactly 1 at a bound of exactly 1 is not beyond it."""
    logprobs = torch.tensor([-1.0, -2.0])
    for loss_type in ("grpo", "cispo"):
        loss = PolicyLoss(epsilon_high=0.0, beta=0.0, loss_type=loss_type)
        _, metrics = loss(logprobs, logprobs, None, torch.ones(2), torch.zeros(2, dtype=torch.long), 1)
        assert metrics["clipped"].tolist() == [0, 0]
