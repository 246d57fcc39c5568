"""Towers and projectors with adapters: clips are encoded anew for each forward pass that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.family import Family
from avrt.models.tower_inputs import media_batch
from avrt.policy.plain_weights import is_adapted
from avrt.policy.student_options import StudentOptions


class AdaptedEncoders:
    """What a policy does with towers and projectors of which some layers have adapters.

    A holder of modules that the model has already; not one itself, so that they are not registered twice.

    Args:
        family: The model's family.
        model: The model, with its adapters.
        projectors: Names of its projectors' linear layers.
        options: How the student was loaded.
    """

    def __init__(self, family: Family, model: nn.Module, projectors: Sequence[str], options: StudentOptions) -> None:
        assert options.lora is not None
        self._family, self._model = family, model
        self._projectors = [model.get_submodule(name) for name in projectors]
        self._towers = family.towers(model) if "towers" in options.lora.modules else ()
        if options.gradient_checkpointing:
            for tower in self._towers:
                _recompute(tower)

    def train(self, mode: bool) -> None:
        """Switch the mode of towers that are trained; of others that of the projectors' adapters alone."""
        for tower in self._towers:
            tower.train(mode)
        for layer in self._projectors:
            if is_adapted(layer):
                layer.train(mode)

    def encode(self, prompts: EncodedPrompts, *, run_on_empty: bool) -> EncodedPrompts:
        """Prompts with features by the weights as they are, with a gradient where that is switched on.

        A gradient reaches all adapters, also those of a tower that has nothing to read here: ranks average gradients
        in the order in which these come, and take part in each other's gathering of weights.

        Args:
            prompts: Prompts with tower inputs.
            run_on_empty: As in `Family.encode_clips`, where there is no gradient.
        """
        batch = media_batch(prompts.tower_inputs, prompts.device)
        run_on_empty = run_on_empty or torch.is_grad_enabled()
        features = self._family.encode_clips(self._model, batch, run_on_empty=run_on_empty)
        return replace(prompts, features=features, tower_inputs=[])


def _recompute(tower: Any) -> None:
    """Have a tower keep no activations of its layers, where transformers can do that."""
    if any(isinstance(module, GradientCheckpointingLayer) for module in tower.modules()):
        tower.activation_checkpointing_enable({"use_reentrant": False})
