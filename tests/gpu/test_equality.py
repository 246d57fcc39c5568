"""On a GPU all paths give the numbers of each other and of the CPU."""

import pytest
import torch

from avrt.models.attention import TOWER_ATTENTION
from avrt.models.teacher_forcing import completion_states
from avrt.models.transformers_internals import use_attention
from avrt.objectives.token_scores import score_tokens
from avrt.policy.parity import check_parity
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15}
WAYS = {
    "dynamic": {"decoding": "dynamic"},
    "static": {"decoding": "static"},
    "compiled": {"decoding": "compiled"},
    "refilled": {"decoding": "static", "prompts_at_once": 2},
    "auto": {},
}


def greedy(policy, prompts, **options):
    sampling = SamplingOptions(max_new_tokens=40, temperature=0.0, **options)
    return policy.generate(prompts, sampling, seeds=[0] * 2 * len(prompts), group_size=2)


def test_sampling_scoring_and_transformers_agree(student, dtype, mixed):
    checks = check_parity(student, mixed.to("cuda"), SamplingOptions(max_new_tokens=24), 2, TOLERANCE[dtype])
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_decoding_gives_the_tokens_of_the_cpu(way, mixed):
    cpu = load_policy(StudentOptions(source="nano", dtype="float32"))
    expected = greedy(cpu, cpu.encode(mixed), decoding="dynamic")
    student = load_policy(StudentOptions(source="nano", dtype="float32")).to("cuda")
    for _ in range(2):  # the second time with the recorded step
        found = greedy(student, student.encode(mixed.to("cuda")), **WAYS[way])
        assert [c.token_ids.tolist() for c in found] == [c.token_ids.tolist() for c in expected]
        assert [c.finished for c in found] == [c.finished for c in expected]


@pytest.mark.parametrize("way", WAYS)
def test_recorded_log_probabilities_are_those_of_scoring(way, student, dtype, mixed):
    prompts = student.encode(mixed.to("cuda"))
    sampling = SamplingOptions(max_new_tokens=60, **WAYS[way])
    for step in range(2):
        seeds = list(range(100 * step, 100 * step + 3 * len(prompts)))
        completions = student.generate(prompts, sampling, seeds=seeds, group_size=3)
        scores = student.logprobs(prompts, [c.token_ids for c in completions]).logprobs
        assert (torch.cat([c.logprobs for c in completions]) - scores).abs().max() < TOLERANCE[dtype]


def test_gradients_of_packed_groups_are_those_of_padded_rows_and_of_the_cpu(dtype, mixed):
    generator = torch.Generator().manual_seed(0)
    completions = [torch.randint(300, 800, (n,), generator=generator) for n in (9, 30, 1, 17, 5, 22, 40, 3)]

    def gradients(device, dtype, packed):
        policy = load_policy(StudentOptions(source="nano", dtype=dtype, gradient_checkpointing=True)).to(device).train()
        prompts = policy.encode(mixed.to(device))
        states = completion_states(policy.decoder, prompts, [c.to(device) for c in completions], packed=packed)
        scores = score_tokens(states.hidden_states, states.targets, policy.decoder.lm_head)
        scores.logprobs.mean().backward()
        return torch.cat([p.grad.float().cpu().flatten() for p in policy.parameters() if p.grad is not None])

    exact = gradients("cpu", "float32", packed=False)
    packed, padded = (gradients("cuda", dtype, packed=which) for which in (True, False))
    errors = [float((g - exact).norm() / exact.norm()) for g in (packed, padded)]
    assert errors[0] < {"float32": 1e-4, "bfloat16": 0.1}[dtype], errors
    assert errors[0] < 2 * errors[1] + 1e-5, errors


def test_towers_in_one_call_give_what_the_stock_towers_give(student, dtype, mixed):
    batch = mixed.to("cuda")
    ours = student.encode(batch).features
    for tower in student.family.towers(student.model):
        assert tower.config._attn_implementation == TOWER_ATTENTION
        use_attention(tower.config, "sdpa")
    stock = student.encode(batch).features
    for one, other in zip([*ours.vision, *ours.audio], [*stock.vision, *stock.audio], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one - other).float().norm() < {"float32": 1e-5, "bfloat16": 0.02}[dtype] * other.float().norm()
