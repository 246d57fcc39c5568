"""Weights through a GPU's memory from one process to another, and through pinned memory of the host: the same bytes.

The worker is the real one, in a process of its own; what takes the weights there is `benchmarks/receiver`, not vLLM.
"""

import sys
import time
from pathlib import Path

import pytest
import torch

from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm.cuda_ipc import CudaIPC
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.shared_memory import SharedMemory
from avrt.policy.vllm.weights import Socket
from benchmarks.receiver.vllm import checksum

RECEIVER = Path(__file__).parents[2] / "benchmarks" / "receiver"
SHAPES = {"embedding": (151_936, 2048), "bias": (7,), "nothing": (0, 3), "scalar": ()}


@pytest.fixture
def engine(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={RECEIVER} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    process = EngineProcess(VLLMOptions(python=str(python)))
    process.open("none", {"device": "cuda"}, EngineFacts())
    yield process
    process.close()


def weights(seed):
    """1.9 GB in bfloat16 on the GPU: one tensor larger than a chunk, layers, and odd ones."""
    generator = torch.Generator("cuda").manual_seed(seed)
    shapes = SHAPES | {f"layer.{i}": (2048, 11_008) for i in range(28)}
    return {
        name: torch.randn(shape, device="cuda", generator=generator).to(torch.bfloat16)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("way", [CudaIPC, SharedMemory, Socket])
def test_weights_of_a_gpu_arrive_as_they_were_pushed(engine, way):
    device, transfer = torch.device("cuda", 0), way()
    try:
        assert transfer.attach(engine, device) == ""
        for seed in range(3):
            pushed = weights(seed)
            torch.cuda.synchronize()
            begun = time.perf_counter()
            size = transfer.push(engine, iter(pushed.items()))
            seconds = time.perf_counter() - begun
            assert size == sum(tensor.nbytes for tensor in pushed.values())
            print(f"{transfer.name}, push {seed + 1}: {size / 1e9:.2f} GB at {size / seconds / 1e9:.2f} GB/s")
            assert engine.ask({"do": "checksums"})[0]["checksums"] == {n: checksum(t) for n, t in pushed.items()}
        # An engine that opens the block anew, as after a restart, reads the same.
        assert transfer.attach(engine, device) == ""
        transfer.push(engine, iter(pushed.items()))
        assert engine.ask({"do": "checksums"})[0]["checksums"] == {n: checksum(t) for n, t in pushed.items()}
    finally:
        transfer.close()


def test_a_block_of_another_gpu_or_another_trainer_is_refused(engine):
    transfer, before = CudaIPC(chunk_bytes=1 << 20), torch.cuda.memory_allocated()
    assert transfer.attach(engine, torch.device("cpu")) == "the policy is not on a GPU"
    assert transfer.attach(engine, torch.device("cuda", 0)) == ""
    said = transfer.offer()
    assert transfer.offered(engine, said | {"uuid": "another"}) == "the engine is not on the trainer's GPU"
    assert transfer.offered(engine, transfer.offer() | {"token": "00" * 32}) == "the trainer's block is another"
    transfer.close()
    torch.cuda.ipc_collect()
    assert torch.cuda.memory_allocated() == before  # also what was offered in vain
