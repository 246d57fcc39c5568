"""In vLLM's place where only the way of the weights is looked at: takes them as vLLM does, by copies into its own."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch

__version__ = "0.0.receiver"


class LLM:
    """Whatever it is given becomes its weights.

    Args:
        model: Not read.
        device: Where its weights are.
        settings: Not read.
    """

    def __init__(self, model: str, device: str = "cpu", **settings: Any) -> None:
        self._device = device
        self._own: dict[str, torch.Tensor] = {}
        self.llm_engine = SimpleNamespace(engine_core=None)
        torch.empty(1, device=device)  # as vLLM, which uses its GPU by the time that weights come

    def collective_rpc(self, method: str, kwargs: dict[str, Any] | None = None) -> list[Any]:
        """Take weights, or say what they are; of positions it knows nothing."""
        if method == "follow_trainer":
            return [[]]
        if method == "compute_weight_checksums":
            return [{name: checksum(tensor) for name, tensor in self._own.items()}]
        assert kwargs is not None
        for name, tensor in kwargs["weights_iterator"]:
            if name not in self._own or self._own[name].shape != tensor.shape:
                self._own[name] = torch.empty_like(tensor, device=self._device)
            self._own[name].copy_(tensor)
        if self._device != "cpu":
            torch.cuda.synchronize()
        return [None]

    def reset_prefix_cache(self) -> None:
        """Has none."""

    def reset_mm_cache(self) -> None:
        """Has none."""


def checksum(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
