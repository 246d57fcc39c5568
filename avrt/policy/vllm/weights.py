"""How an engine gets the policy's weights: the seam that each way stands behind, and the way that always works."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from avrt.policy.vllm.process import EngineProcess

CHUNK_BYTES = 1 << 28


class WeightTransfer(ABC):
    """A way to hand weights over to an engine.

    Attributes:
        name: What it is called in `model.vllm.transfer`.
        holds: Whether it holds what was pushed last.
    """

    name: ClassVar[str]
    holds: ClassVar[bool] = False

    @abstractmethod
    def attach(self, process: EngineProcess, device: torch.device) -> str:
        """Have an engine that has just started take part.

        Args:
            process: The engine.
            device: Where the policy's weights are.

        Returns:
            Why that is not possible; empty if it is.
        """

    @abstractmethod
    def push(self, process: EngineProcess, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Give an engine weights by name; they are asked for one after the other, as ranks may have to gather them.

        Returns:
            Their bytes.

        Raises:
            AvrtError: If the engine fails.
            EngineGoneError: If it has ended.
        """

    def again(self, process: EngineProcess) -> bool:
        """Give an engine that was started again exactly what was pushed last; False where that is not held here."""
        return False

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Free what it holds."""

    def offered(self, process: EngineProcess, said: dict[str, Any]) -> str:
        """The engine's answer to an offer; see `attach`."""
        return str(process.ask({"do": "attach", "way": self.name, **said})[0].get("refused", ""))


class Socket(WeightTransfer):
    """Over the connection that the engine is asked by, wherever it is."""

    name = "socket"

    def attach(self, process: EngineProcess, device: torch.device) -> str:
        """Nothing to do."""
        return ""

    def push(self, process: EngineProcess, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Send them, chunk by chunk."""
        chunk: dict[str, Tensor] = {}
        size = total = 0
        for name, tensor in weights:
            if chunk and size + tensor.nbytes > CHUNK_BYTES:
                process.ask({"do": "load", "way": self.name, "last": False}, chunk)
                chunk, size = {}, 0
            chunk[name] = tensor
            size += tensor.nbytes
            total += tensor.nbytes
        process.ask({"do": "load", "way": self.name, "last": True}, chunk)
        return total
