"""How an engine gets the policy's weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from avrt.policy.vllm.process import EngineProcess

CHUNK_BYTES = 1 << 28


def push_weights(process: EngineProcess, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give an engine weights by name, over its connection."""
    chunk: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            process.ask({"do": "load", "last": False}, chunk)
            chunk, size = {}, 0
        chunk[name] = tensor
        size += tensor.nbytes
    process.ask({"do": "load", "last": True}, chunk)
