"""One engine's supply of weights: the way is chosen once, timed, and taken again where the engine was restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.policy.policy import Policy
from avrt.policy.vllm.cuda_ipc import CudaIPC
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.readback import ReadBack
from avrt.policy.vllm.shared_memory import SharedMemory
from avrt.policy.vllm.weights import Socket, WeightTransfer

WAYS: tuple[type[WeightTransfer], ...] = (CudaIPC, SharedMemory, Socket)
"""The best first."""
_LOG = logging.getLogger(__name__)


class WeightSupply:
    """What an engine is given its weights by.

    Args:
        wanted: A way's name, or `auto`.
        everything: Give also what training does not change.

    Attributes:
        keeps: Whether an engine that is started again has to get what was pushed last although the policy has learned
            since. Ways that do not hold that themselves have it copied to the host.
        seconds: What the last push took.
        gigabytes_per_second: Of the last push.

    Raises:
        AvrtError: If there is no such way.
    """

    def __init__(self, wanted: str = "auto", *, everything: bool = True) -> None:
        self.everything = everything
        self._ways = [way for way in WAYS if wanted in ("auto", way.name)]
        if not self._ways:
            names = ", ".join(way.name for way in WAYS)
            raise AvrtError(f"{wanted!r} is none of auto, {names}", where="model.vllm.transfer")
        self._chosen: WeightTransfer | None = None
        self._refused = ""
        self._told = False
        self._copy = _Copy()
        self.keeps = False
        self.seconds = 0.0
        self.gigabytes_per_second = 0.0

    @property
    def way(self) -> str:
        """The chosen way's name; empty before."""
        return "" if self._chosen is None else self._chosen.name

    def push(self, process: EngineProcess, policy: Policy, read_back: ReadBack | None = None) -> None:
        """Give the engine the policy's weights as they are now.

        Args:
            process: The engine.
            policy: The policy.
            read_back: Keeps some of them to compare.

        Raises:
            AvrtError: If no way that is wanted is open.
            EngineGoneError: If it ends meanwhile; see `again`.
        """
        transfer = self.choose(process, policy)
        weights = self._weights(transfer, policy)
        if read_back is not None:
            weights = read_back.watch(
                weights, tuple(prefix for prefix, _ in policy.family.released_parts(policy.decoder))
            )
        begun = time.perf_counter()
        try:
            size = transfer.push(process, weights)
        except AvrtError:
            # Ranks that gather weights together have to get through all, or the others would wait for this one; and one
            # cannot begin again by itself.
            if policy.is_partitioned:
                for _ in weights:
                    pass
            raise
        self.seconds = time.perf_counter() - begun
        self.gigabytes_per_second = size / self.seconds / 1e9
        if not self._told:
            self._told = True
            refused = f" (not {self._refused})" if self._refused else ""
            _LOG.info(
                "vLLM gets the weights by %s: %.2f GB, the first time at %.2f GB/s%s",
                transfer.name, size / 1e9, self.gigabytes_per_second, refused,
            )  # fmt: skip

    def again(self, process: EngineProcess, policy: Policy) -> None:
        """Give an engine that was started again what was pushed last, or would have been, had it not ended.

        Raises:
            AvrtError: If the way is not open any more.
            EngineGoneError: If it has ended again.
        """
        transfer = self._chosen
        if transfer is None:
            return
        if why := transfer.attach(process, _device(policy)):
            raise AvrtError(f"{transfer.name}: {why}", where="model.vllm.transfer", remedy="leave it at auto")
        if not transfer.again(process):
            weights = self._copy.weights.items() if self._copy.whole else self._weights(transfer, policy)
            transfer.push(process, weights)

    def close(self) -> None:
        """Free what the chosen way holds."""
        if self._chosen is not None:
            self._chosen.close()
        self._copy = _Copy()

    def choose(self, process: EngineProcess, policy: Policy) -> WeightTransfer:
        """The first way that is open, found before the first push, by when the policy is on its device.

        Raises:
            AvrtError: If none that is wanted is.
            EngineGoneError: If the engine ends meanwhile.
        """
        if self._chosen is not None:
            return self._chosen
        refused: list[str] = []
        for way in self._ways:
            transfer = way()
            try:
                why = transfer.attach(process, _device(policy))
            except AvrtError:
                transfer.close()
                raise
            if not why:
                self._chosen = transfer
                self._refused = "; ".join(refused)
                return transfer
            transfer.close()
            refused.append(f"{way.name}: {why}")
        raise AvrtError("; ".join(refused), where="model.vllm.transfer", remedy="leave it at auto")

    def _weights(self, transfer: WeightTransfer, policy: Policy) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights, copied on their way where that is the only way to have them again."""
        weights = policy.released_weights(everything=self.everything)
        if transfer.holds or not (self.keeps or policy.is_partitioned):
            return weights
        return self._copy.of(weights)


def _device(policy: Policy) -> torch.device:
    device: torch.device = next(policy.decoder.language_model.parameters()).device
    return device


class _Copy:
    """The weights pushed last, on the host."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.whole = False

    def of(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same weights, copied as they come."""
        self.whole = False
        for name, tensor in weights:
            place = self.weights.get(name)
            if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
                place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self.weights[name] = place
            place.copy_(tensor.detach())
            yield name, tensor
        self.whole = True
