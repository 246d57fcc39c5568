"""Drawing tokens: right distribution, right log-probabilities, seeds per answer."""

import math

import numpy as np
import pytest
import torch

from avrt.models.decoder import experts_stay_on_device
from avrt.rollout.sampling import SamplingOptions, completion_seed, decoding_for, draw, truncate, uniforms


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
    tokens, logprobs = draw(logits.expand(n, -1), options, uniforms([1], n)[0])
    probabilities = truncate(logits[None] / options.temperature, options)[0].softmax(-1)
    assert chi_square(torch.bincount(tokens, minlength=8).float(), probabilities) < 24.3  # 7 degrees, p = 0.001
    assert torch.allclose(logprobs, probabilities.log()[tokens])


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.isfinite(truncate(logits, SamplingOptions(top_p=0.75)))[0].tolist() == [True, True, False, False]
    assert torch.isfinite(truncate(logits, SamplingOptions(top_p=0.1)))[0].tolist() == [True, False, False, False]


def test_limits_at_their_boundaries():
    """A mass that is reached exactly is enough; equal tokens at the edge of top-k stay together."""
    even = torch.zeros(1, 4)
    assert torch.isfinite(truncate(even, SamplingOptions(top_p=0.5))).sum() == 2
    assert torch.isfinite(truncate(even, SamplingOptions(top_k=2))).sum() == 4
    uneven = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    kept = {k: torch.isfinite(truncate(uneven, SamplingOptions(top_k=k)))[0].tolist() for k in (1, 2, 3, 4, 9)}
    assert kept[1] == [True, False, False, False]
    assert kept[2] == [True, False, True, False]
    assert kept[3] == [True, True, True, False]
    assert kept[4] == kept[9] == [True] * 4
    # top-p acts on what top-k has left: of 0.5, 0.3, 0.2 the first two have 0.625 and 0.375 then
    both = SamplingOptions(top_k=2, top_p=0.6)
    assert torch.isfinite(truncate(torch.tensor([[0.2, 0.5, 0.3]]).log(), both))[0].tolist() == [False, True, False]


def test_tokens_are_where_the_cumulative_distribution_passes_the_number():
    """Against NumPy in float64, over a vocabulary so large that float32 sums would take neighbours."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 150_000, generator=generator)
    numbers = torch.rand(400, generator=generator, dtype=torch.float64)
    tokens, logprobs = draw(logits.expand(400, -1), SamplingOptions(temperature=2.0), numbers)
    mass = np.cumsum(np.exp(logits[0].numpy().astype(np.float64) / 2))
    expected = np.searchsorted(mass / mass[-1], numbers.numpy(), side="right")
    assert (tokens.numpy() != expected).sum() <= 2  # the probabilities themselves are float32
    shares = np.diff(mass, prepend=0) / mass[-1]
    assert logprobs.tolist() == pytest.approx(np.log(shares[tokens.numpy()]).tolist(), abs=1e-5)


def test_tokens_of_tiny_probability_are_all_within_reach():
    """A thousand tokens of 1e-8 each behind a sure one: sums in float32 would join a hundred and more of them."""
    logits = torch.full((1000, 1001), math.log(1e-8))
    logits[:, 0] = 0.0
    numbers = (1 + (torch.arange(1000, dtype=torch.float64) + 0.5) * 1e-8) / (1 + 1e-5)
    tokens, _ = draw(logits, SamplingOptions(), numbers)
    assert len(tokens.unique()) > 900


def test_a_number_at_a_boundary_takes_the_token_behind_it():
    tokens, _ = draw(torch.zeros(4, 4), SamplingOptions(), torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64))
    assert tokens.tolist() == [0, 1, 2, 3]


def test_logits_of_bfloat16_are_scored_in_float32():
    logits = (torch.arange(64.0)[None] / 7).bfloat16()
    exact = logits.double().log_softmax(-1)[0]
    for temperature, token in ((1.0, None), (0.0, 63)):
        tokens, logprobs = draw(logits, SamplingOptions(temperature=temperature), torch.tensor([0.3]).double())
        assert logprobs.dtype == torch.float32
        assert logprobs.item() == pytest.approx(exact[tokens.item()].item(), abs=1e-5)
        assert token is None or tokens.item() == token


def test_exact_means_the_policys_own_distribution():
    assert SamplingOptions().exact
    for change in ({"temperature": 0.9}, {"temperature": 0.0}, {"temperature": 2.0}, {"top_k": 1}, {"top_p": 0.99}):
        assert not SamplingOptions(**change).exact, change


def test_answers_can_be_limited_further_but_not_less():
    options = SamplingOptions(max_new_tokens=30, temperature=0.5, top_k=4)
    assert options.limited(10) == SamplingOptions(max_new_tokens=10, temperature=0.5, top_k=4)
    assert options.limited(50) == options


def test_the_defaults_are_the_documented_ones():
    options = SamplingOptions()
    assert (options.max_new_tokens, options.decoding) == (512, "auto")
    assert SamplingOptions(max_new_tokens=1, top_p=1.0, top_k=0).exact  # the ends of the ranges are allowed


@pytest.mark.parametrize(
    ("dtype", "capability", "decoding"),
    [
        (torch.bfloat16, (9, 0), "compiled"),
        (torch.bfloat16, (10, 0), "compiled"),
        (torch.float32, (9, 0), "dynamic"),
        (torch.bfloat16, (8, 0), "dynamic"),
        (torch.bfloat16, (8, 9), "dynamic"),
        (torch.bfloat16, (12, 0), "dynamic"),
    ],
)
def test_experts_have_fixed_buffers_where_their_step_can_be_recorded(dtype, capability, decoding):
    stays = experts_stay_on_device(dtype, capability)
    for options in (SamplingOptions(), SamplingOptions(prompts_at_once=2)):
        found = decoding_for(options, on_gpu=True, scattered=False, gathered=False, recordable=stays)
        assert found == decoding
    asked = SamplingOptions(decoding="static")
    assert decoding_for(asked, on_gpu=True, scattered=False, gathered=False, recordable=stays) == "static"


def test_seeds_have_63_bits_and_numbers_53():
    seeds = [completion_seed(i) for i in range(300)]
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62  # and use them all
    numbers = uniforms([7], 1000)[0]
    assert numbers.dtype == torch.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1


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
    assert completion_seed(0, 3, "clip", 1) == completion_seed(0, 3, "clip", 1)
    seeds = {completion_seed(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in ("x", "y") for d in (0, 1)}
    assert len(seeds) == 16
    both = uniforms([5, 6], 4)
    assert torch.equal(both[1], uniforms([6], 4)[0])


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="out of range"):
        SamplingOptions(**options)
