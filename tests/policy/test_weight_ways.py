"""Weights arrive each way as they were pushed, and memory that is not the trainer's block is not opened.

The worker is the real one; what takes the weights in it is `benchmarks/receiver`, in vLLM's place.
"""

import os
import re
import secrets
import sys
from pathlib import Path

import pytest
import torch

from avrt.errors import AvrtError
from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm import shared_memory, weights
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.readback import ReadBack
from avrt.policy.vllm.supply import WeightSupply
from avrt.rollout.vllm_process.memory import NAME
from benchmarks.receiver.vllm import checksum

RECEIVER = Path(__file__).parents[2] / "benchmarks" / "receiver"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    python = tmp_path_factory.mktemp("receiver") / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={RECEIVER} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    process = EngineProcess(VLLMOptions(python=str(python)))
    process.open("none", {}, EngineFacts())
    yield process
    process.close()


def some_weights(seed):
    """Several chunks and parts, of every kind that models have; the last one is larger in every push."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(300, 500), (7,), (), (0, 3), (2, 3, 5), (1024, 300), (100 + seed, 300)]
    kinds = [torch.bfloat16, torch.float32, torch.float16]
    return {
        f"{i}.{kind}": torch.randn(shape, generator=generator).to(kind)
        for i, shape in enumerate(shapes)
        for kind in kinds
    } | {"transposed": torch.randn(40, 60, generator=generator).T}


def maps(pid):
    return f"memfd:{NAME}" in Path(f"/proc/{pid}/maps").read_text()


def test_each_way_brings_the_same_bytes_push_after_push(process, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(shared_memory, "PART_BYTES", 1 << 20)
    for way in (weights.Socket(), shared_memory.SharedMemory()):
        assert way.attach(process, CPU) == ""
        for seed in range(3):
            pushed = some_weights(seed)
            assert way.push(process, iter(pushed.items())) == sum(tensor.nbytes for tensor in pushed.values())
            assert process.ask({"do": "checksums"})[0]["checksums"] == {n: checksum(t) for n, t in pushed.items()}
            if way.holds:
                for tensor in pushed.values():
                    tensor.zero_()
                assert way.again(process)
                theirs = process.ask({"do": "checksums"})[0]["checksums"]
                assert theirs == {n: checksum(t) for n, t in some_weights(seed).items()}
    assert maps(os.getpid())
    assert maps(process.pid)
    way.close()
    assert not maps(os.getpid())


def test_nothing_but_the_trainers_own_block_is_opened(process, tmp_path):
    way = shared_memory.SharedMemory()
    refused = "the trainer's block is not on this machine"
    token = secrets.token_bytes(32)
    with (tmp_path / "secret").open("wb+") as file:
        file.write(token)
        file.flush()
        assert way.offered(process, {"pid": os.getpid(), "fd": file.fileno(), "token": token.hex()}) == refused
    other = os.memfd_create(NAME)
    os.write(other, token)
    for said in ({"token": secrets.token_hex(32)}, {"token": ""}):
        assert way.offered(process, {"pid": os.getpid(), "fd": other, **said}) == refused
    assert "No such file" in way.offered(process, {"pid": 2**22 + 1, "fd": other, "token": token.hex()})
    assert way.offered(process, {"pid": os.getpid(), "fd": other, "token": token.hex()}) == ""
    os.close(other)


def test_a_machine_without_the_memory_is_said_so(process, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    way = shared_memory.SharedMemory()
    assert "No space left" in way.attach(process, CPU)


def test_the_way_is_chosen_by_itself_and_said_once(process, nano, monkeypatch, caplog):
    caplog.set_level("INFO")
    pushed = {name: checksum(tensor) for name, tensor in nano.released_weights()}
    supply = WeightSupply()
    for _ in range(2):
        supply.push(process, nano)
    assert supply.way == "shared_memory"
    assert supply.gigabytes_per_second > 0
    assert process.ask({"do": "checksums"})[0]["checksums"].items() >= pushed.items()
    [line] = caplog.messages
    assert re.fullmatch(
        r"vLLM gets the weights by shared_memory: 0\.\d\d GB, the first time at \d+\.\d\d GB/s \(not cuda_ipc: .*\)",
        line,
    )
    supply.close()
    monkeypatch.delattr(os, "memfd_create")
    supply = WeightSupply()
    supply.push(process, nano)
    assert supply.way == "socket"
    assert "shared_memory: needs Linux" in caplog.messages[-1]


def test_a_way_that_does_not_work_here_is_refused(process, nano):
    with pytest.raises(
        AvrtError, match=r"^model\.vllm\.transfer: cuda_ipc: the policy is not on a GPU \(leave it at auto\)$"
    ):
        WeightSupply("cuda_ipc").push(process, nano)
    with pytest.raises(AvrtError, match="'nccl' is none of auto, cuda_ipc, shared_memory, socket"):
        WeightSupply("nccl")


def test_weights_that_are_no_numbers_are_not_the_same():
    class Engine:
        def ask(self, message):
            return {}, {"model.layers.0.q_proj.weight": torch.tensor([[float("nan"), 1.0]])}

    read_back = ReadBack()
    list(read_back.watch([("model.layers.0.q_proj.weight", torch.ones(1, 2))]))
    with pytest.raises(AvrtError, match=r"q_proj\.weight differs by up to nan"):
        read_back.check(Engine())
