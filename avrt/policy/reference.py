"""The reference: the policy as it was before training, which the KL penalty holds on to."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy, Scores


class Reference(nn.Module):
    """A frozen copy of a policy's decoder, or the policy without its adapters.

    Args:
        policy: The policy as it is now.
        place: Where a copy's weights are: on the `device` (under ZeRO-3 scattered like the policy's), or on the `host`,
            page-locked where there is a GPU, from where `loaded` brings them. There they are not in the module tree, so
            that neither Lightning nor DeepSpeed moves or saves them.
    """

    def __init__(self, policy: Policy, place: Literal["device", "host"] = "device") -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple, so that it is not registered as a part of this one
        self._copied = policy.options.lora is None
        self._is_loaded = True
        self._home: list[tuple[nn.Module, str, Tensor]] = []  # weights and buffers as they are outside `loaded`
        if self._copied:
            # together, so that a weight that both use stays one
            parts: tuple[nn.Module, nn.Module] = copy.deepcopy((policy.decoder.language_model, policy.decoder.lm_head))
            for part in parts:
                part.requires_grad_(False).eval()
            cast(Any, parts[0]).activation_checkpointing_disable()
            self._copy = parts
            if place == "host":
                own = [
                    (module, name, tensor.detach())
                    for part in self._copy
                    for module in part.modules()
                    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                ]
                homes = _page_locked([tensor for _, _, tensor in own])
                self._home = [(module, name, home) for (module, name, _), home in zip(own, homes, strict=True)]
                self._leave()
            else:
                self.language_model, self.lm_head = self._copy

    @property
    def decoder(self) -> Decoder:
        """The reference's decoder; that of the policy where adapters are what is trained."""
        if not self._copied:
            return self._policy[0].decoder
        return type(self._policy[0].decoder)(*self._copy)

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """A context with the weights on the policy's device, for as many questions as there are; then they are gone.

        From page-locked memory a GPU takes 6.8 GB (the copy for a 3B student) in about 0.2 s.
        """
        if self._is_loaded:
            yield
            return
        device = next(self._policy[0].decoder.lm_head.parameters()).device
        for module, name, home in self._home:
            _put(module, name, home.to(device, non_blocking=True))
        self._is_loaded = True
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Be on the host again; nothing has changed that would have to be copied back."""
        for module, name, home in self._home:
            _put(module, name, home)
        self._is_loaded = not self._home

    @torch.no_grad()
    def logprobs(self, prompts: EncodedPrompts, completions: Sequence[Tensor]) -> Scores:
        """Log-probability of every token of given completions under the reference; carries no gradient.

        Outside `loaded` the weights are loaded for this call alone.
        """
        [policy] = self._policy
        with self.loaded(), policy.without_adapters():  # where the decoder is a copy, there are none
            return policy.score(self.decoder, prompts, completions)

    def train(self, mode: bool = True) -> Reference:
        """Stay in evaluation mode."""
        return super().train(False)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Have a module use a tensor for one of its weights or buffers."""
    is_weight = isinstance(getattr(module, name), nn.Parameter)
    setattr(module, name, nn.Parameter(tensor, requires_grad=False) if is_weight else tensor)


def _page_locked(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors that a GPU can copy without the processor's help, where there is a GPU.

    All of a type lie in one block: PyTorch rounds page-locked blocks up to a power of two, which would double many.
    """
    if not torch.cuda.is_available():
        return list(tensors)
    totals: dict[torch.dtype, int] = {}
    for tensor in tensors:
        totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.numel()
    blocks = {dtype: torch.empty(total, dtype=dtype, pin_memory=True) for dtype, total in totals.items()}
    homes: list[Tensor] = []
    used = dict.fromkeys(totals, 0)
    for tensor in tensors:
        start = used[tensor.dtype]
        used[tensor.dtype] += tensor.numel()
        homes.append(blocks[tensor.dtype][start : used[tensor.dtype]].view(tensor.shape).copy_(tensor))
    return homes
