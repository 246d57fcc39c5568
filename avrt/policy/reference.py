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
        # weights and buffers as they are outside `loaded`, each with the modules that use it and its name there
        self._home: list[tuple[Tensor, list[tuple[nn.Module, str]]]] = []
        if self._copied:
            # together, so that a weight that both use stays one; what is never trained is shared, not copied
            decoder = policy.decoder
            shared: dict[int, Any] = {id(part): part for part in decoder.frozen}
            parts: tuple[nn.Module, nn.Module] = copy.deepcopy((decoder.language_model, decoder.lm_head), shared)
            for part in parts:
                part.requires_grad_(False).eval()
            cast(Any, parts[0]).activation_checkpointing_disable()
            self._copy = parts
            if place == "host":
                elsewhere = {module for part in decoder.frozen for module in part.modules()}
                used: dict[int, tuple[Tensor, list[tuple[nn.Module, str]]]] = {}
                for module in [m for part in parts for m in part.modules() if m not in elsewhere]:
                    for name, tensor in _own_tensors(module):
                        used.setdefault(id(tensor), (tensor.detach(), []))[1].append((module, name))
                homes = _page_locked([tensor for tensor, _ in used.values()])
                self._home = [(home, users) for home, (_, users) in zip(homes, used.values(), strict=True)]
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
        for home, users in self._home:
            _put(users, home.to(device, non_blocking=True))
        self._is_loaded = True
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Be on the host again; nothing has changed that would have to be copied back."""
        for home, users in self._home:
            _put(users, home)
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


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's weights and buffers, without those of its parts."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _put(users: Sequence[tuple[nn.Module, str]], tensor: Tensor) -> None:
    """Have modules use a tensor, the same one, for one of their weights or buffers."""
    first, at = users[0]
    used = nn.Parameter(tensor, requires_grad=False) if isinstance(getattr(first, at), nn.Parameter) else tensor
    for module, name in users:
        setattr(module, name, used)


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
