"""oneDNN's product gives a linear layer's numbers and gradients, and is left alone where it does not fit."""

import pytest
import torch
from torch import nn

from avrt.models import onednn
from avrt.models.onednn import LEAST_ROWS, OneDnnLinear, use_onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(LEAST_ROWS, 48), (3, 40, 48)])
def test_numbers_and_gradients(bias, shape, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(onednn, "suits_processor", lambda: True)
    layer, inputs = nn.Linear(48, 24, bias=bias), torch.randn(shape)
    results = []
    for own in (False, True):
        if own:
            use_onednn(layer)
            assert type(layer) is OneDnnLinear
        given = inputs.clone().requires_grad_()
        layer.zero_grad()
        outputs = layer(given)
        outputs.square().sum().backward()
        results.append([outputs, given.grad, *(p.grad.clone() for p in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "dtype"), [(LEAST_ROWS - 1, torch.float32), (LEAST_ROWS, torch.bfloat16)])
def test_few_rows_and_other_types_take_pytorchs_own(rows, dtype, monkeypatch):
    calls = []
    monkeypatch.setattr(onednn, "suits_processor", lambda: True)
    monkeypatch.setattr(onednn, "product", lambda *given: calls.append(given))
    layer = nn.Linear(8, 8).to(dtype)
    inputs = torch.randn(rows, 8, dtype=dtype)
    expected = layer(inputs)
    use_onednn(layer)
    assert torch.equal(layer(inputs), expected)
    assert not calls


@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_it_is_taken_only_where_mkl_leaves_avx_512_alone(monkeypatch, vendor, capability, faster):
    monkeypatch.setattr(onednn, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer = nn.Linear(4, 4)
    use_onednn(layer)
    assert (type(layer) is OneDnnLinear) == faster
