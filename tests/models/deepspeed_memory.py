"""One rank of a small model under the strategy's DeepSpeed configuration: prints what its tensors take, in bytes.

`python -m tests.models.deepspeed_memory RANK PORT STAGE OFFLOAD DTYPE` prints `accumulating` (between two micro-batches
of the second step) and `trained`, `frozen`, `largest` numbers of parameters.
"""

from __future__ import annotations

import gc
import json
import os
import sys

import torch
from torch import nn

from avrt.training.deepspeed_internals import prepare_backward
from avrt.training.on_cpu import use_cpu
from avrt.training.strategy import OmniDeepSpeedStrategy

WIDTH, LAYERS, RANKS, BUCKET = 400, 12, 2, 200_000  # each weight is larger than what ZeRO-3 leaves whole


class Model(nn.Module):
    """A chain of trained linear maps, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.frozen = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One number."""
        for layer in self.trained:
            x = layer(x)
        return self.frozen(x).float().square().mean()


def live_bytes() -> int:
    """Bytes of all tensors that Python knows of, each storage once."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def main(rank: str, port: str, stage: str, offload: str, dtype: str) -> None:
    """Two steps of two micro-batches."""
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    use_cpu()
    import deepspeed

    deepspeed.init_distributed("gloo")
    model = Model().to(getattr(torch, dtype))
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = {"trained": sum(p.numel() for p in trained), "frozen": WIDTH * WIDTH, "largest": WIDTH * WIDTH}
    strategy = OmniDeepSpeedStrategy(
        stage=int(stage), offload_optimizer=offload == "True", reduce_bucket_size=BUCKET, overlap_comm=True
    )
    config = {**strategy.config, "bf16": {"enabled": dtype == "bfloat16"}, "gradient_accumulation_steps": 1}
    engine, *_ = deepspeed.initialize(model=model, optimizer=strategy.optimizer(trained, lr=1e-3), config=config)
    inputs = torch.randn(2, WIDTH, dtype=getattr(torch, dtype))
    accumulating = 0
    for _ in range(2):
        for last in (False, True):
            prepare_backward(engine, last=last)
            engine.backward(model(inputs))
            if not last:
                accumulating = live_bytes()
        engine.step()
    print("FOUND", json.dumps({"accumulating": accumulating, **numbers}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
