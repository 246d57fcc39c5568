"""The router loss of a mixture of experts: transformers' own on plain rows, and packed groups as padded rows."""

import pytest
import torch
from transformers import Qwen3OmniMoeTextConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeThinkerTextModel,
    load_balancing_loss_func,
)

from avrt.algorithms.router_balance import RouterBalance
from avrt.models.attention import ATTENTION_IMPLEMENTATIONS
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.teacher_forcing import completion_states, continued_positions, pad_positions, pad_rows
from avrt.models.transformers_internals import use_attention
from avrt.objectives.router_loss import load_balancing_loss
from avrt.policy.policy import Scores

CHOSEN = 2
LENGTHS = (4, 1, 7, 5, 2, 3)
COUNTED = (True, False, True, True, True, True)


@pytest.fixture(scope="module")
def decoder():
    """Two layers of six experts, one of a plain network."""
    config = Qwen3OmniMoeTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=6, num_experts_per_tok=CHOSEN,
        mlp_only_layers=[1], max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3OmniMoeThinkerTextModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    use_attention(model.config, ATTENTION_IMPLEMENTATIONS["sdpa"])
    return Decoder(model, torch.nn.Linear(32, 64, bias=False))


@pytest.fixture
def groups():
    """Two prompts, three completions each."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 64, (n,), generator=generator) for n in (9, 5)]
    nothing = [torch.zeros(0, dtype=torch.long)] * 2
    positions = [continued_positions(0, len(row), row.device) for row in ids]
    prompts = EncodedPrompts(ids, positions, [9, 5], nothing, nothing, ClipFeatures.none(2))
    return prompts, [torch.randint(0, 64, (n,), generator=generator) for n in LENGTHS]


def stock(decoder, prompts, completions, counted=COUNTED):
    """transformers' auxiliary loss over the rows that count, each with its own copy of the prompt, padded."""
    pairs = [(i // 3, completion) for i, completion in enumerate(completions) if counted[i]]
    ids, mask = pad_rows([torch.cat([prompts.token_ids[b], completion[:-1]]) for b, completion in pairs])
    positions = pad_positions([continued_positions(0, int(n), ids.device) for n in mask.sum(1)])
    output = decoder.language_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, output_router_logits=True, use_cache=False
    )
    return load_balancing_loss_func(output.router_logits, 6, CHOSEN, mask)


def ours(decoder, prompts, completions, counted=COUNTED, *, packed=True):
    routing = completion_states(decoder, prompts, completions, packed=packed, counted=counted).routing
    assert len(routing.logits) == 2
    return load_balancing_loss(routing.logits, routing.weights, decoder.experts_per_token)


def gradients(decoder, loss):
    found = torch.autograd.grad(loss, list(decoder.language_model.parameters()), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("recomputed", [False, True])
def test_value_and_gradient_are_those_of_transformers_on_padded_rows(decoder, groups, packed, recomputed):
    """Over whole rows: a prompt counts for each of its completions that counts, padding and others for nothing."""
    expected = stock(decoder, *groups)
    whole = gradients(decoder, expected)
    assert expected > CHOSEN + 0.01, "even routing would show nothing"
    if recomputed:
        decoder.language_model.activation_checkpointing_enable({"use_reentrant": False})
        decoder.language_model.train()
    try:
        found = ours(decoder, *groups, packed=packed)
        mine = gradients(decoder, found)
    finally:
        decoder.language_model.activation_checkpointing_disable()
        decoder.language_model.eval()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in whole)
    assert largest > 1e-3
    for one, other in zip(mine, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * largest)
    everything = ours(decoder, *groups, counted=[True] * 6, packed=packed).item()
    assert everything != pytest.approx(expected.item(), rel=1e-4)
    assert ours(decoder, *groups, counted=[False] * 6, packed=packed) == 0


def test_micro_batches_weigh_by_their_tokens(decoder, groups):
    """Which is the mean over the step's tokens of a loss whose own means are the micro-batch's."""
    prompts, completions = groups
    parts = [([9], LENGTHS[:3], COUNTED[:3]), ([5], LENGTHS[3:], COUNTED[3:])]
    balance = RouterBalance(0.5, parts, torch.device("cpu"))
    with torch.no_grad():
        each = [ours(decoder, prompts.rows([i]), completions[3 * i : 3 * i + 3], parts[i][2]) for i in (0, 1)]
        empty = torch.zeros(0)
        shares = [
            balance.added(torch.tensor(2.0), Scores(empty, empty, empty, empty, loss), i) - 2
            for i, loss in enumerate(each)
        ]
    tokens = [2 * 9 + 3 + 6, 3 * 5 + 4 + 1 + 2]
    expected = sum(n * loss for n, loss in zip(tokens, each, strict=True)) / sum(tokens)
    assert sum(shares) == pytest.approx(0.5 * float(expected), rel=1e-5)
    assert float(balance.value) == pytest.approx(expected.item(), rel=1e-5)
    assert each[0] != pytest.approx(float(each[1]), rel=1e-3)
    off = RouterBalance(0.0, parts, torch.device("cpu"))
    assert off.counted(0) is None
    loss = torch.tensor(2.0)
    assert off.added(loss, Scores(empty, empty, empty, empty), 0) is loss
