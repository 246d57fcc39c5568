"""The seam between a policy and a model family: what a family has to provide.

A family is one package beside `qwen2_5_omni` with a class that implements `Family`, listed in
`avrt.models.families.FAMILIES`. Algorithms, evaluation and traces never look behind it; docs/architecture.md lists what
a family may have to widen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.media_inputs import MediaInputs
from avrt.errors import AvrtError
from avrt.models.attention import TOWER_ATTENTION
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.engine_prompts import EngineFacts


@dataclass(frozen=True)
class EncodingCost:
    """What it costs to encode some clips.

    Attributes:
        features: Bytes of what comes out, which stays for the step.
        working: Bytes beside that at the widest moment.
        operations: Multiplications and additions.
    """

    features: int
    working: int
    operations: int


class Family(ABC):
    """One model family.

    Attributes:
        name: What it goes by.
        model_types: The `model_type` of its configurations, as released and as exported here.
        nano: The source that stands for its preset of random weights.
        lora_targets: Pattern of the decoder's linear layers, for adapters.
        projectors: Pattern of the linear layers between towers and decoder, likewise. They may lie within a tower's
            module; the tower's other linear layers are its own.
        tower_attention: The attention function of its towers; None leaves them what they were loaded with.
        engine: What vLLM has to know of it.
        typical_clip: Tokens of picture and of sound that eight frames and ten seconds of AVQA become.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    nano: ClassVar[str]
    lora_targets: ClassVar[str]
    projectors: ClassVar[str]
    tower_attention: ClassVar[str | None] = TOWER_ATTENTION
    engine: ClassVar[EngineFacts]
    typical_clip: ClassVar[tuple[int, int]] = (1200, 250)

    @property
    def interleaves(self) -> bool:
        """Whether sound can lie within a video."""
        return self.engine.interleaves

    @abstractmethod
    def make_nano(self, seed: int) -> tuple[nn.Module, Any]:
        """The preset's model in float32, and its processor; needs no download."""

    @abstractmethod
    def load(self, source: str, dtype: torch.dtype, attention: str) -> tuple[nn.Module, Any, list[str]]:
        """Load a model that only reads and writes text.

        Args:
            source: A folder or a model id.
            dtype: Type of the weights.
            attention: Name of one of transformers' attention functions.

        Returns:
            Model, processor, and the names of parameters that the source has no weights for.
        """

    @abstractmethod
    def config(self, source: str) -> Any:
        """A model's configuration, without its weights.

        Raises:
            OSError: If the source cannot be reached.
            ValueError: If it is no such configuration.
        """

    @abstractmethod
    def released_config(self, source: str) -> Any | None:
        """The configuration of a released model whose dimensions are known by heart; None for other sources."""

    @abstractmethod
    def empty_model(self, config: Any) -> nn.Module:
        """The model of a configuration on the meta device: names and shapes, and no weights."""

    @abstractmethod
    def processor(self, source: str) -> Any:
        """A model's processor without the model."""

    @abstractmethod
    def encoding_cost(self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
        """What it costs to encode clips that become so many tokens; of the model sizes are read alone."""

    def scattered_encoding_cost(
        self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int
    ) -> EncodingCost:
        """The same under ZeRO-3, where each tower runs once; no other unless a family encodes in portions elsewhere."""
        return self.encoding_cost(model, vision_tokens, audio_tokens, element_size)

    @abstractmethod
    def inputs(self, model: Any, processor: Any) -> MediaInputs:
        """How clips and prompts become the model's inputs."""

    @abstractmethod
    def decoder(self, model: Any) -> Decoder:
        """The half that is trained."""

    def fused_layers(self, model: Any) -> Mapping[type, type]:
        """For each class of the decoder's layers the subclass with fused kernels; none unless a family has some."""
        return {}

    @abstractmethod
    def towers(self, model: Any) -> tuple[nn.Module, ...]:
        """The encoders, whose own weights stay frozen (adapters may not); those with attention have a `config`."""

    def leaf_modules(self, model: Any) -> tuple[type[nn.Module], ...]:
        """Classes whose modules ZeRO-3 gathers as wholes: those that may run other parts for other tokens.

        Ranks would gather these parts in different orders otherwise, and wait for each other. None by default. Experts
        that are one grouped product are one module, which every rank runs: there it is a precaution, for a loop.
        """
        return ()

    @abstractmethod
    def context_length(self, model: Any) -> int:
        """Most tokens of prompt and completion together."""

    @abstractmethod
    def encode_clips(self, model: Any, batch: OmniBatch, *, run_on_empty: bool) -> ClipFeatures:
        """Run the towers once over a batch, with a gradient or without, as the caller has it.

        Args:
            model: The model.
            batch: Inputs, on the model's device; media alone may be looked at, as `TowerInputs` keeps them.
            run_on_empty: Run each tower once, on a minimal input where the batch has none for it: every rank has to
                take part in gathering a tower's weights (ZeRO-3), and in averaging the gradients of its adapters.
                With a gradient what comes of it is in `ClipFeatures.idle`.
        """

    @abstractmethod
    def to_released_layout(self, folder: Path) -> None:
        """Turn a saved model's folder into the layout of the released checkpoints, which vLLM loads."""

    @abstractmethod
    def released_parts(self, decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
        """The decoder's parts, and what their parameters' names begin with in the released checkpoints."""

    def released_encoders(self, model: Any) -> Iterator[tuple[str, nn.Module]]:
        """Towers and projectors, likewise: another engine is given what adapters make of them.

        Raises:
            AvrtError: If the family does not say.
        """
        raise AvrtError(
            f"vLLM cannot be given {self.name}'s towers with adapters",
            where="model.student.lora.modules",
            remedy="leave them at [decoder], or model.vllm out",
        )

    def released_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A parameter of `released_parts` as the released checkpoints have it: under one name, or as several tensors.

        Args:
            name: With the part's prefix.
            tensor: The parameter.
        """
        yield name, tensor

    @abstractmethod
    def vllm_prompt(self, inputs: Any, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
        """A prompt as vLLM is asked it.

        Returns:
            `token_ids` and `placeholders` (see `folded`), the video's `fps`, and options of vLLM's `processor`.
        """

    @abstractmethod
    def stock_positions(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
        """(3, P) positions of one prompt by transformers' own arithmetic, to compare ours with."""

    @abstractmethod
    def stock_media(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
        """One row's media as transformers' own forward pass and `generate` take them."""

    @abstractmethod
    def stock_logprobs(self, model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
        """(R,) log-probabilities of a completion by transformers' own forward pass, with its media and positions.

        NaN behind a special token that the policy sampled: transformers would take it for a placeholder.
        """
