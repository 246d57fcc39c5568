"""The pretended device itself: its counts by numbers worked by hand, and faults that are planted for it to report."""

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from avrt.errors import AvrtError
from avrt.rollout.sampling import SamplingOptions
from tests.pretended.device import DeviceMismatchError, PretendedDevice, UnknownValueError
from tests.pretended.models import encoded_prompts, policy_of, released_model

MEGABYTE = 1 << 20


@pytest.fixture
def device():
    with PretendedDevice() as device:
        yield device


def on_device(*shape: int, **options) -> torch.Tensor:
    return torch.empty(*shape, device="cuda", **options)


def test_a_tensor_says_cuda(device):
    tensor = on_device(2, 3)
    assert tensor.is_cuda
    assert tensor.device == torch.device("cuda", 0)
    assert (tensor + 1).sum(0).device.type == "cuda"
    assert torch.zeros_like(tensor).is_cuda
    assert not torch.zeros(3).is_cuda


def test_nothing_is_left_of_it_outside():
    with PretendedDevice():
        inside = on_device(3)
    with pytest.raises(RuntimeError, match="with PretendedDevice"):
        inside + 1
    plain = scaled_dot_product_attention(*torch.zeros(3, 1, 2, 4, 8))
    assert type(plain) is torch.Tensor


@pytest.mark.parametrize(
    ("reading", "times"),
    [
        (lambda x: x[0].item(), 1),
        (lambda x: int(x.sum()), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 1], 1),
        (lambda x: torch.unique_consecutive(x), 1),
        (lambda x: x.repeat_interleave(x), 1),
        (lambda x: torch.empty(4, dtype=torch.long).copy_(x), 1),
        (lambda x: x[x[0]], 1),
        (lambda x: [int(value) for value in x], 4),
        (lambda x: x.repeat_interleave(x, output_size=6), 0),
        (lambda x: x.masked_fill(x > 1, 0), 0),
        (lambda x: x.index_select(0, x[:2]), 0),
        (lambda x: x.view(2, 2).sum(0) + 1, 0),
        (lambda x: x.cpu if len(x) else None, 0),
    ],
)
def test_synchronizations(device, reading, times):
    tensor = torch.arange(4).to("cuda")
    with device.counting() as account:
        reading(tensor)
    assert account.synchronizations.total() == times
    assert all("test_instrument.py" in where for where in account.synchronizations)


def test_filling_by_a_mask_does_not_wait_but_writing_by_one_does(device):
    tensor = torch.arange(4).to("cuda")
    with device.counting() as account:
        tensor[tensor > 1] = 7
    assert not account.synchronizations
    assert tensor.tolist() == [0, 1, 7, 7]
    with device.counting() as account:
        tensor[tensor == 7] = torch.tensor([5, 6]).to("cuda")
    assert account.synchronizations.total() == 1
    assert tensor.tolist() == [0, 1, 5, 6]


def test_copies_from_the_host(device):
    with device.counting() as account:
        torch.tensor([1, 2], device="cuda")
        torch.zeros(3).to("cuda")
        torch.zeros(3).to("cuda", non_blocking=True)  # pageable memory: waits nevertheless
        on_device(3).copy_(torch.zeros(3).pin_memory())  # pinned, but told to wait
        on_device(3)[torch.tensor([0, 1])]
        on_device(3)[[0, 1]]
        torch.tensor([], device="cuda")  # nothing is copied
    assert account.blocking_copies.total() == 6
    with device.counting() as account:
        pinned = torch.zeros(3).pin_memory()
        pinned.to("cuda", non_blocking=True)
        on_device(3).copy_(torch.zeros(3, pin_memory=True), non_blocking=True)
        torch.zeros(3, device="cuda") + 1.5
        torch.arange(3, device="cuda")
    assert pinned.is_pinned()
    assert not account.blocking_copies
    assert not account.synchronizations


def test_values_follow_what_is_done_to_them(device):
    rows = torch.zeros(2, 4, dtype=torch.long).to("cuda")
    rows[:, 1:3].index_copy_(0, torch.tensor([1]).to("cuda"), torch.tensor([[5, 6]]).to("cuda"))
    rows[0] += 1
    assert rows.T.tolist() == [[1, 0], [1, 5], [1, 6], [1, 0]]
    assert rows[rows > 1].tolist() == [5, 6]


def test_what_nobody_knows_cannot_be_read(device):
    large = on_device(2000, 2000)
    mask = (large @ large)[0] > 0
    with pytest.raises(UnknownValueError, match="nonzero"):
        mask.nonzero()
    known = torch.zeros(2000, dtype=torch.bool).to("cuda")
    known.logical_or_(mask)
    with pytest.raises(UnknownValueError, match="item"):
        bool(known.any())


def test_a_tensor_of_the_host_is_reported(device):
    tensor = on_device(3)
    for mixing in (lambda: tensor + torch.ones(3), lambda: torch.cat([tensor, torch.ones(3)])):
        with pytest.raises(DeviceMismatchError, match=r"test_instrument\.py"):
            mixing()
    assert (tensor + torch.ones(())).is_cuda  # a number may be anywhere


def test_kernels_are_no_views_and_no_allocations(device):
    with device.counting() as account:
        tensor = on_device(4, 4)
        (tensor.T[1:].reshape(-1).view(3, 4)[None].expand(2, -1, -1) * 2).add_(1)
    assert account.kernels == {"clone": 1, "mul": 1, "add_": 1}


def test_memory_by_hand(device):
    with device.counting() as account:
        kept = on_device(MEGABYTE, dtype=torch.bfloat16)
        half = kept[::2]
        del kept
        sums = half.float().sum()
    assert account.peak == 2 * MEGABYTE + 2 * MEGABYTE + 512
    assert account.kept == 2 * MEGABYTE + 512  # the view keeps the whole storage
    del half, sums
    assert device.memory.live == account.start


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_of_a_backward_pass_by_hand(device, checkpointing):
    """y = exp(exp(x)) keeps two results for its backward pass; checkpointing none, until it makes them again."""
    tensor = on_device(MEGABYTE, requires_grad=True)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return x.exp().exp()

    with device.counting() as account:
        result = checkpoint(twice, tensor, use_reentrant=False) if checkpointing else twice(tensor)
        assert device.memory.live - account.start == (1 if checkpointing else 2) * 4 * MEGABYTE
        result.backward(on_device(MEGABYTE))
        del result
    assert account.kept == 4 * MEGABYTE  # the gradient
    with device.counting() as account, torch.no_grad():
        twice(tensor)
    assert (account.peak, account.kept) == (8 * MEGABYTE, 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_attention_is_one_call_that_keeps_no_square(device, causal, checkpointing):
    """Queries, keys, values, result and a normalizer in float32 per query and head, never T x T."""
    query = on_device(1, 8, 1024, 64, dtype=torch.bfloat16, requires_grad=True)
    key, value = (on_device(1, 2, 1024, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))

    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*inputs, is_causal=causal, enable_gqa=True)

    with device.counting() as account:
        inputs = query, key, value
        attended = checkpoint(attend, *inputs, use_reentrant=False) if checkpointing else attend(*inputs)
        kept = device.memory.live - account.start
        attended.backward(on_device(1, 8, 1024, 64, dtype=torch.bfloat16))
    own = 8 * 1024 * 64 * 2
    assert own <= kept <= own + 8 * 1024 * 4 + 1024
    assert account.attention.total() == (2 if checkpointing else 1)
    assert account.peak < 8 * own
    assert (query.grad.shape, key.grad.shape, value.grad.shape) == (query.shape, key.shape, value.shape)


def test_variable_length_attention_is_one_call(device):
    query = on_device(100, 8, 64, dtype=torch.bfloat16, requires_grad=True)
    key = on_device(100, 2, 64, dtype=torch.bfloat16, requires_grad=True)
    ends = torch.tensor([0, 40, 100], dtype=torch.int32).to("cuda")
    with device.counting() as account:
        varlen_attn(query, key, key, ends, ends, 60, 60, window_size=(-1, 0), enable_gqa=True).sum().backward()
    assert account.attention.total() == 1
    assert not account.synchronizations
    assert (query.grad.shape, key.grad.shape) == (query.shape, key.shape)
    with pytest.raises(DeviceMismatchError):
        varlen_attn(query, key, key, ends.cpu(), ends, 60, 60, enable_gqa=True)


class FaultyStep:
    """A student of one layer that samples 8 tokens of two prompts, with a fault behind its vocabulary projection."""

    def __init__(self, device, fault, decoding="dynamic") -> None:
        self.device, self.decoding = device, decoding
        self.policy = policy_of(released_model("3B", layers=1))
        self.policy.decoder.lm_head.register_forward_hook(lambda module, inputs, logits: fault(logits))

    def synchronizations(self) -> int:
        prompts = encoded_prompts(self.policy, [700, 800])
        with self.device.counting() as account:
            self.policy.generate(prompts, SamplingOptions(max_new_tokens=8, decoding=self.decoding), seeds=[1, 2])
        return account.synchronizations.total()


def by_a_mask(logits: torch.Tensor) -> torch.Tensor:
    return logits[torch.ones(len(logits), dtype=torch.bool).pin_memory().to("cuda", non_blocking=True)]


def test_a_boolean_index_planted_in_decoding_is_counted_for_every_token(device):
    sound = FaultyStep(device, lambda logits: logits).synchronizations()
    assert FaultyStep(device, by_a_mask).synchronizations() == sound + 8


def test_a_boolean_index_planted_in_a_recorded_step_is_refused(device):
    with pytest.raises(AvrtError, match="boolean index: not permitted while a CUDA graph is recorded, at avrt/"):
        FaultyStep(device, by_a_mask, decoding="static").synchronizations()


@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_a_tensor_of_the_host_planted_in_decoding_is_reported(device, decoding):
    with pytest.raises(DeviceMismatchError, match=r"a tensor of the host \(151936,\) at avrt/models/decoder.py"):
        FaultyStep(device, lambda logits: logits + torch.zeros(151_936), decoding).synchronizations()


def test_a_graph_is_one_kernel_that_does_the_same_again(device):
    counter = torch.zeros(2, dtype=torch.long).to("cuda")
    device.sample = lambda shape: torch.full(shape, 3)

    def step() -> None:
        drawn = on_device(2, 2000, 1000).flatten(1).argmax(-1)  # 3, as far as anybody knows
        counter.add_(torch.where(counter < 4, drawn, 0))

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=None, capture_error_mode="thread_local"):
        step()
    assert counter.tolist() == [0, 0]  # recorded, not run
    with device.counting() as account:
        for _ in range(3):
            graph.replay()
    assert account.kernels.total() == 3
    assert counter.tolist() == [6, 6]
    held = device.memory.live
    del graph
    assert held - device.memory.live >= 2 * 2000 * 1000 * 4  # the memory that the step took stays with the graph
    for waiting in (lambda: counter.tolist(), lambda: torch.tensor([1]).to("cuda")):
        with (
            pytest.raises(RuntimeError, match="while a CUDA graph is recorded"),
            torch.cuda.graph(torch.cuda.CUDAGraph(), stream=None, capture_error_mode="thread_local"),
        ):
            waiting()
