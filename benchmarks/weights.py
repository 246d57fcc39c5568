"""GB/s of each way to hand weights to an engine, side by side: bfloat16 on the CPU, two processes, bytes compared.

    python benchmarks/weights.py --gigabytes 0.5 2 --rounds 5

The worker is the real one; what takes the weights there is `receiver/vllm.py`, which copies them as vLLM does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.shared_memory import SharedMemory
from avrt.policy.vllm.weights import Socket, WeightTransfer

sys.path.insert(0, str(Path(__file__).parent))
from receiver.vllm import checksum

WIDTH, INNER = 2048, 11_008
DIFFERENT = 6


def weights(gigabytes: float) -> dict[str, torch.Tensor]:
    """Layers as those of a model of 3B: a large matrix, a small one and a norm each.

    They repeat after some, so that memory is taken by what is measured; far more than any cache holds lies in between.
    """
    shapes = (("up", (INNER, WIDTH)), ("key", (256, WIDTH)), ("norm", (WIDTH,)))
    several = [
        {name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.bfloat16) for name, shape in shapes}
        for _ in range(DIFFERENT)
    ]
    found: dict[str, torch.Tensor] = {}
    while sum(tensor.nbytes for tensor in found.values()) < gigabytes * 1e9:
        layer = len(found) // len(shapes)
        found |= {f"{layer}.{name}": tensor for name, tensor in several[layer % DIFFERENT].items()}
    return found


def measure(way: WeightTransfer, pushed: dict[str, torch.Tensor], rounds: int, python: Path) -> None:
    """Push some rounds by one way, and compare what has arrived."""
    engine = EngineProcess(VLLMOptions(python=str(python)))
    engine.open("none", {}, EngineFacts())
    refused = way.attach(engine, torch.device("cpu"))
    assert not refused, refused
    seconds = []
    for _ in range(rounds):
        for tensor in {tensor.data_ptr(): tensor for tensor in pushed.values()}.values():
            tensor.view(torch.int16).add_(1)
        begun = time.perf_counter()
        size = way.push(engine, iter(pushed.items()))
        seconds.append(time.perf_counter() - begun)
    expected = {name: checksum(tensor) for name, tensor in pushed.items()}
    assert engine.ask({"do": "checksums"})[0]["checksums"] == expected, f"{way.name} changes bytes"
    first, *later = (size / s / 1e9 for s in seconds)
    print(
        f"{size / 1e9:.2f} GB by {way.name}: first push {first:.2f} GB/s, "
        f"later best {max(later):.2f}, median {statistics.median(later):.2f}; bytes equal",
        flush=True,
    )
    engine.close()
    way.close()


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 2.0])
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "python"
        receiver = Path(__file__).parent / "receiver"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={receiver} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        for gigabytes in options.gigabytes:
            pushed = weights(gigabytes)
            for way in (SharedMemory(), Socket(), SharedMemory(), Socket()):  # in turn, as other work comes and goes
                measure(way, pushed, options.rounds, python)


if __name__ == "__main__":
    main()
