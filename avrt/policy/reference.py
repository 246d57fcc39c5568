"""The reference: the policy as it was before training, which the KL penalty holds on to."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy, Scores


class Reference(nn.Module):
    """A frozen copy of a policy's decoder, or the policy without its adapters.

    Args:
        policy: The policy as it is now.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple, so that it is not registered as a part of this one
        self._copied = policy.options.lora is None
        if self._copied:
            self.language_model = copy.deepcopy(policy.decoder.language_model)
            self.lm_head = copy.deepcopy(policy.decoder.lm_head)
            self.requires_grad_(False)
            self.language_model.activation_checkpointing_disable()
            self.eval()

    @property
    def decoder(self) -> Decoder:
        """The reference's decoder; that of the policy where adapters are what is trained."""
        if not self._copied:
            return self._policy[0].decoder
        return Decoder(self.language_model, self.lm_head)

    def loaded(self) -> contextlib.AbstractContextManager[None]:
        """A context in which it can be asked."""
        return contextlib.nullcontext()

    @torch.no_grad()
    def logprobs(self, prompts: EncodedPrompts, completions: Sequence[Tensor]) -> Scores:
        """Log-probability of every token of given completions under the reference; carries no gradient."""
        [policy] = self._policy
        with policy.without_adapters():  # where the decoder is a copy, there are none
            return policy.score(self.decoder, prompts, completions)

    def train(self, mode: bool = True) -> Reference:
        """Stay in evaluation mode."""
        return super().train(False)
