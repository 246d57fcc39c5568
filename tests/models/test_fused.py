"""Fused layers give the numbers of transformers' own, keep less for the backward pass, and stay out of the CPU's way.

The kernels are Liger's own, run by Triton's interpreter; on a GPU `tests/gpu` runs them as compiled.
"""

import sys

import pytest
import torch
from torch import nn

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.models.fused import fuse_layers, runs_fused
from avrt.models.qwen2_5_omni.fused import (
    FUSED,
    FusedAttention,
    FusedMLP,
    FusedNorm,
    fused_classes,
    rotate_where_it_runs,
    stock,
)
from avrt.models.qwen2_5_omni.released_sizes import released_config
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import make_sample

KERNELS = {"LigerRMSNormFunctionBackward", "LigerSiLUMulFunctionBackward", "LigerRopeFunctionBackward"}


@pytest.fixture
def short(builder, batch):
    """One short sound: the interpreter takes a millisecond for each token and kernel."""
    return collate([builder.row(make_sample(media=("audio",)), Clip(audio=batch.clips[0].audio[:8_000]))])


def student(**changes):
    torch.manual_seed(0)  # adapters start at random
    return load_policy(StudentOptions(**{"source": "nano", "dtype": "float32", **changes}))


def graph_names(tensor):
    """Names of all nodes behind a tensor."""
    names, waiting, seen = set(), [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(type(node).__name__)
            waiting += [parent for parent, _ in node.next_functions]
    return names


def layer_pair(nano, dtype):
    """A decoder layer of transformers and its fused copy with the same random weights, and a function that runs one."""
    model = nano.decoder.language_model
    layers = []
    for wanted in (False, True):
        layer = type(model.layers[0])(model.config, 0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.dim() > 1 else 1))
        assert fuse_layers(layer, fused_classes(model.config), wanted) == (4 if wanted else 0)
        layers.append(layer.to(dtype))
    generator = torch.Generator().manual_seed(1)
    positions = torch.randint(0, 200, (3, 2, 7), generator=generator)  # time, height and width differ
    hidden = torch.randn(2, 7, model.config.hidden_size, generator=generator).to(dtype)
    rotation = model.rotary_emb(hidden, positions)

    def run(layer, given):
        return layer(given, attention_mask=None, position_embeddings=rotation)

    return layers, hidden, run


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_a_layer_gives_the_stock_layers_output_and_gradients(nano, kernels, dtype, bound):
    layers, hidden, run = layer_pair(nano, dtype)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    results = []
    for layer in layers:
        leaf = hidden.clone().requires_grad_()
        output = run(layer, leaf)
        names = graph_names(output)
        output.backward(upstream)
        results.append((names, [output.detach(), leaf.grad, *(p.grad for p in layer.parameters())]))
    (stock_names, expected), (names, got) = results
    assert not stock_names & KERNELS
    assert names >= KERNELS
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        assert (a.float() - b.float()).abs().max() <= bound * b.float().abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_as_much_less_as_the_module_says(nano, kernels, dtype):
    layers, hidden, run = layer_pair(nano, dtype)
    kept = []
    for layer in layers:
        storages = {}

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = run(layer, hidden.clone().requires_grad_())
        weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        kept.append(sum(size for address, size in storages.items() if address not in weights))
        del output
    config = nano.decoder.language_model.config
    tokens = hidden.shape[0] * hidden.shape[1]
    assert kept[0] - kept[1] == tokens * (8 * config.hidden_size + dtype.itemsize * config.intermediate_size)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, LoraOptions(rank=4)])
def test_packed_groups_score_alike_with_gradients(short, kernels, checkpointing, lora):
    generator = torch.Generator().manual_seed(0)
    answers = [torch.randint(300, 800, (n,), generator=generator) for n in (5, 2)]
    results = []
    for wanted in (False, True):
        policy = student(fused_layers=wanted, gradient_checkpointing=checkpointing, lora=lora).train()
        scores = policy.logprobs(policy.encode(short), answers).logprobs
        scores.sum().backward()
        results.append((scores.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}))
    (expected, gradients), (scores, fused_gradients) = results
    assert torch.allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert fused_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_rollouts_over_a_shared_prefix_and_the_reference_are_the_same(short, kernels):
    sampling = SamplingOptions(temperature=1.0, max_new_tokens=6)
    completions, references = [], []
    for wanted in (False, True):
        policy = student(fused_layers=wanted)
        reference = Reference(policy)
        prompts = policy.encode(short)
        completions.append(policy.generate(prompts, sampling, seeds=range(2), group_size=2))
        references.append(reference.logprobs(prompts, [c.token_ids for c in completions[0]]).logprobs)
    for a, b in zip(*completions, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        assert torch.allclose(a.logprobs, b.logprobs, rtol=1e-5, atol=1e-5)
    assert isinstance(reference.language_model.norm, FusedNorm)
    assert torch.allclose(*references, rtol=1e-5, atol=1e-5)


def test_a_compiled_layer_is_one_graph_of_the_stock_operations(nano, kernels):
    """Inductor fuses these by itself, and a kernel that breaks the graph would cost each decoded token."""
    (plain, layer), hidden, run = layer_pair(nano, torch.float32)
    compiled = torch.compile(run, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(layer, hidden), run(plain, hidden))


def test_mixed_types_are_left_to_the_stock_layers(nano, kernels):
    """Rotating in place would round what transformers leaves in the wider type."""
    hidden = torch.zeros(2, 7, 128)
    rotation = nano.decoder.language_model.rotary_emb(hidden, torch.arange(7).expand(3, 2, 7))
    query, key = (torch.randn(2, 7, h, 32).to(torch.bfloat16).transpose(1, 2) for h in (4, 2))
    assert not runs_fused(query, key, *rotation)
    for a, b in zip(
        rotate_where_it_runs(query, key, *rotation), stock.apply_rotary_pos_emb(query, key, *rotation), strict=True
    ):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


# ---- where it is switched on


def test_on_the_cpu_auto_and_false_leave_the_layers_as_they_are(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for wanted in ("auto", False):
        kinds = {type(m) for m in student(fused_layers=wanted).decoder.language_model.modules()}
        assert not kinds & {FusedNorm, FusedMLP, FusedAttention} or torch.cuda.is_available()


def test_fused_layers_calculate_on_the_cpu_as_the_stock_ones_do(batch, kernels, monkeypatch):
    """A student is loaded on the CPU, and may be used there, before it moves to the GPU."""
    policy, plain = student(fused_layers=True), student()
    assert isinstance(policy.decoder.language_model.layers[0].mlp, FusedMLP)
    monkeypatch.delenv("TRITON_INTERPRET")
    answers = [torch.arange(300, 305)] * len(batch.samples)
    with torch.no_grad():
        got, expected = (p.logprobs(p.encode(batch), answers).logprobs for p in (policy, plain))
    assert torch.equal(got, expected)


def test_the_towers_are_left_alone(kernels):
    policy = student(fused_layers=True)
    kinds = {type(m) for tower in policy.family.towers(policy.model) for m in tower.modules()}
    assert stock.Qwen2_5OmniRMSNorm in kinds
    assert not kinds & set(FUSED.values())


def test_names_of_parameters_stay(kernels):
    assert list(student(fused_layers=True).state_dict()) == list(student().state_dict())


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_every_layer_of_the_released_students_is_replaced(kernels, size):
    config = released_config(size)
    with torch.device("meta"):
        model = stock.Qwen2_5OmniThinkerTextModel(config.text_config)
    layers = config.text_config.num_hidden_layers
    assert fuse_layers(model, fused_classes(config.text_config), True) == 4 * layers + 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused(monkeypatch):
    pytest.importorskip("liger_kernel")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(AvrtError, match=r"model\.student\.fused_layers: fused layers need a GPU"):
        student(fused_layers=True)


def test_without_the_package_it_is_refused_and_auto_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)  # as if it were not installed
    with pytest.raises(AvrtError, match=r"liger-kernel.*pip install 'avrt\[fused\]'"):
        student(fused_layers=True)
    assert not isinstance(student(fused_layers="auto").decoder.language_model.norm, FusedNorm)


def test_a_family_without_fused_layers_says_so():
    with pytest.raises(AvrtError, match="no fused form"):
        fuse_layers(nn.Linear(2, 2), {}, True)
    assert fuse_layers(nn.Linear(2, 2), {}, "auto") == 0
