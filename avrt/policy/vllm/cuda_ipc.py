"""Weights through the memory of the GPU that trainer and engine are both on."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.weights import CHUNK_BYTES, WeightTransfer
from avrt.rollout.vllm_process.memory import DEVICE_DATA, device_uuid
from avrt.rollout.vllm_process.wire import aligned, byte_view, dtype_name


class CudaIPC(WeightTransfer):
    """One block on the GPU that the engine opens once; weights go through it piece by piece.

    It is as large as a chunk, and a tensor of more comes in several pieces, so that the trainer's memory for it does
    not depend on the model. (The engine puts each tensor together before vLLM takes it up, and gives that memory back
    after the last.) The handle is PyTorch's own (`torch.multiprocessing.reductions` has the same), sent as text.
    PyTorch counts who holds a handle and frees the block only when nobody does: what is shared in vain, or with an
    engine that was killed, has to be counted down here.
    """

    name = "cuda_ipc"

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._block: Tensor | None = None
        self._token = secrets.token_bytes(32)
        self._counters: list[tuple[bytes, int]] = []

    def attach(self, process: EngineProcess, device: torch.device) -> str:
        """Have the engine open the block."""
        if device.type != "cuda":
            return "the policy is not on a GPU"
        if refused := self.offered(process, {"uuid": device_uuid(_index(device))}):  # before there is anything to free
            return refused
        self._release()
        if self._block is None:
            self._block = torch.empty(DEVICE_DATA + self._chunk_bytes, dtype=torch.uint8, device=device)
            self._block[: len(self._token)] = torch.tensor(list(self._token), dtype=torch.uint8)
        torch.cuda.synchronize(device)
        try:
            said = self.offer()
        except RuntimeError as error:  # an allocator whose memory cannot be shared
            return str(error).partition("\n")[0]
        if refused := self.offered(process, said):
            self._release()
        return refused

    def offer(self) -> dict[str, Any]:
        """What the engine opens the block by."""
        assert self._block is not None
        shared = self._block.untyped_storage()._share_cuda_()  # type: ignore[no-untyped-call]
        _, memory, size, offset, counter, counter_offset, event, wait = shared
        self._counters.append((counter, counter_offset))
        handle = {"memory": memory.hex(), "size": size, "offset": offset, "counter": counter.hex(),
                  "counter_offset": counter_offset, "event": event.hex(), "wait": wait}  # fmt: skip
        return {"uuid": device_uuid(self._block.device.index), "token": self._token.hex(), "handle": handle}

    def push(self, process: EngineProcess, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Copy them into the block, chunk by chunk; each is taken out before the next is written."""
        assert self._block is not None
        table: list[Any] = []
        used, total = DEVICE_DATA, 0
        for name, tensor in weights:
            whole = byte_view(tensor.detach())
            start = 0
            while True:
                size = min(len(whole) - start, len(self._block) - used)
                self._block[used : used + size].copy_(whole[start : start + size], non_blocking=True)
                table.append([name, dtype_name(tensor), list(tensor.shape), start, used, size])
                start, used = start + size, used + aligned(size)
                if used >= len(self._block):
                    self._hand_over(process, table, last=False)
                    table, used = [], DEVICE_DATA
                if start == len(whole):
                    break
            total += start
        self._hand_over(process, table, last=True)
        return total

    def _hand_over(self, process: EngineProcess, table: list[Any], *, last: bool) -> None:
        assert self._block is not None
        torch.cuda.synchronize(self._block.device)
        process.ask({"do": "load", "way": self.name, "table": table, "last": last})

    def close(self) -> None:
        """Free the block."""
        self._release()
        self._block = None

    def _release(self) -> None:
        """Count as given back what was shared; an engine that has done so by itself does not matter."""
        for counter, offset in self._counters:
            torch.UntypedStorage._release_ipc_counter_cuda(counter, offset)
        self._counters = []


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
