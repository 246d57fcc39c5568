"""Qwen3-Omni's fused layers give the numbers of transformers' own, in layers with experts and at the end."""

import torch

from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from tests.models.test_fused import KERNELS, graph_names


def test_fused_layers_score_alike_with_gradients(qwen3, kernels):
    decoder = qwen3.decoder
    fused = load_policy(StudentOptions(source="nano-qwen3-omni", dtype="float32", fused_layers=True)).decoder
    hidden = torch.randn(1, 7, 128, generator=torch.Generator().manual_seed(1))
    positions = torch.rand(3, 1, 7, generator=torch.Generator().manual_seed(2)) * 200  # fractions, of three axes
    found = []
    for model in (decoder.language_model, fused.language_model):
        leaf = hidden.clone().requires_grad_()
        output = model(inputs_embeds=leaf, position_ids=positions, use_cache=False).last_hidden_state
        names = graph_names(output)
        weights = [p for p in model.parameters() if p is not model.embed_tokens.weight]
        found.append((names, [output, *torch.autograd.grad((output * hidden.flip(1)).sum(), [leaf, *weights])]))
    (stock_names, expected), (names, results) = found
    assert not stock_names & KERNELS
    assert names & KERNELS == KERNELS - {"LigerSiLUMulFunctionBackward"}
    for one, other in zip(results, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()
