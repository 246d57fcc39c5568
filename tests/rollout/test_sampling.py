"""Drawing tokens: right distribution, right log-probabilities, seeds per answer."""

import pytest
import torch

from avrt.rollout.sampling import SamplingOptions, answer_seed, draw, truncate, uniforms


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    used = expected > 0
    assert counts[~used].sum() == 0
    return float(((counts - expected)[used] ** 2 / expected[used]).sum())


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(temperature=0.7),
        SamplingOptions(top_k=3),
        SamplingOptions(top_p=0.8),
    ],
)
def test_frequencies_follow_the_stated_distribution(options):
    torch.manual_seed(0)
    logits = torch.randn(8) * 1.5
    n = 20_000
    tokens, logprobs = draw(logits.expand(n, -1), options, uniforms([1], n, torch.device("cpu"))[0])
    probabilities = truncate(logits[None] / options.temperature, options)[0].softmax(-1)
    assert chi_square(torch.bincount(tokens, minlength=8).float(), probabilities) < 24.3  # 7 degrees, p = 0.001
    assert torch.allclose(logprobs, probabilities.log()[tokens])


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.isfinite(truncate(logits, SamplingOptions(top_p=0.75)))[0].tolist() == [True, True, False, False]
    assert torch.isfinite(truncate(logits, SamplingOptions(top_p=0.1)))[0].tolist() == [True, False, False, False]


def test_greedy_takes_the_best_and_records_the_policys_own_log_probability():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    tokens, logprobs = draw(logits, SamplingOptions(temperature=0.0), torch.zeros(1))
    assert tokens.item() == 1
    assert logprobs.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())


def test_a_token_of_no_probability_is_never_drawn():
    logits = torch.full((3, 5), -torch.inf)
    logits[:, 2] = 0.0
    tokens, _ = draw(logits, SamplingOptions(), torch.tensor([0.0, 0.5, 1.0 - 1e-16], dtype=torch.float64))
    assert tokens.tolist() == [2, 2, 2]


def test_seeds_are_stable_and_depend_on_every_part():
    assert answer_seed(0, 3, "clip", 1) == answer_seed(0, 3, "clip", 1)
    seeds = {answer_seed(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in ("x", "y") for d in (0, 1)}
    assert len(seeds) == 16
    both = uniforms([5, 6], 4, torch.device("cpu"))
    assert torch.equal(both[1], uniforms([6], 4, torch.device("cpu"))[0])


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="out of range"):
        SamplingOptions(**options)
