"""The policy: an omni model with three verbs, `encode`, `generate` and `logprobs`; everything else calls these.

Packed or padded, one shared prefix or copies of it, native or vLLM, one model family or another: that is decided in
here, and no algorithm knows of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_max
from avrt.errors import AvrtError
from avrt.models.attention import ATTENTION_IMPLEMENTATIONS
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.families import cannot_load, find_family
from avrt.models.family import Family
from avrt.models.feature_cache import FeatureCache, KeptFeatures, weights_hash
from avrt.models.fused import fuse_layers
from avrt.models.onednn import use_onednn
from avrt.models.parameter_types import convert_parameters
from avrt.models.teacher_forcing import completion_states
from avrt.models.tower_inputs import inputs_of
from avrt.models.transformers_internals import save_here, use_attention
from avrt.objectives.router_loss import load_balancing_loss
from avrt.objectives.token_scores import TokenScores, chunk_count, score_tokens
from avrt.packaged import model_source
from avrt.policy.adapted_encoders import AdaptedEncoders
from avrt.policy.adapters import add_adapters, projector_names, recompute_with_own_tensors
from avrt.policy.plain_weights import Gather, plain_state, plain_weights
from avrt.policy.quantized import quantize_layers
from avrt.policy.student_options import StudentOptions
from avrt.rollout.completion import Completion
from avrt.rollout.native import generate
from avrt.rollout.sampling import SamplingOptions, decoding_for
from avrt.rollout.static import StaticDecoder

KEPT_LOGITS = 64 * 2**20
"""Bytes that the logits of a backward pass on the CPU may take, instead of being computed again."""


class RolloutEngine(Protocol):
    """Another engine that samples for a policy."""

    def generate(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> list[Completion]:
        """Completions of each prompt by the policy's weights as they are now."""


@dataclass(frozen=True)
class Scores(TokenScores):
    """What a policy thinks of given completions, N tokens in all.

    Attributes:
        completion_index: (N,) the completion that each token belongs to.
        router_loss: The load-balancing loss of a mixture of experts over all tokens that were read, where it was asked
            for; see `load_balancing_loss`.
    """

    completion_index: Tensor
    router_loss: Tensor | None = None


class Policy(nn.Module):
    """An omni model with frozen towers and a trainable decoder; adapters may be on the towers too.

    Args:
        family: The family that the model belongs to.
        model: The model.
        processor: Its processor.
        options: How it was loaded.
        share_prefix: Read a prompt once for its whole group instead of once per completion; the numbers are the same.
            Where the attention does not support it, each completion has its own copy.

    Attributes:
        inputs: How clips and prompts become the model's inputs.
        engine: Samples completions in place of the native engine, where set.
        is_partitioned: Whether ranks hold parts of the weights (ZeRO-3), so that every forward pass is a collective.
        gather: Then, a context that all enter together, in which some modules' weights are whole, to be read.
        whole_weights: Then, where each rank has room for the whole decoder: a context that all enter together to
            generate, in which a forward pass is each rank's own.
        prompt_room: Most tokens of a prompt, where it is known, so that buffers of fixed shape need never be made anew.
    """

    def __init__(
        self, family: Family, model: nn.Module, processor: Any, options: StudentOptions, *, share_prefix: bool = True
    ) -> None:
        super().__init__()
        options.check()
        self.family = family
        self.options = options
        self.share_prefix = share_prefix
        self.engine: RolloutEngine | None = None
        self.is_partitioned = False
        self.gather: Gather | None = None
        self.whole_weights: Callable[[], contextlib.AbstractContextManager[None]] | None = None
        self.prompt_room: int | None = None
        self.inputs = family.inputs(model, processor)
        decoder = family.decoder(model)
        if options.attention in ATTENTION_IMPLEMENTATIONS:
            use_attention(decoder.language_model.config, ATTENTION_IMPLEMENTATIONS[options.attention])
            if family.tower_attention is not None:
                for tower in family.towers(model):
                    use_attention(tower.config, family.tower_attention)
        fuse_layers(decoder.language_model, family.fused_layers(model), options.fused_layers)
        use_onednn(model)
        if options.quantize is not None:
            quantize_layers(model, family.lora_targets)
        model.requires_grad_(False)
        if options.lora is None:
            decoder.language_model.requires_grad_(True)
            decoder.lm_head.requires_grad_(True)
            for part in decoder.frozen:
                part.requires_grad_(False)
        if options.gradient_checkpointing:
            decoder.language_model.activation_checkpointing_enable({"use_reentrant": False})
        # The adapter wrapper holds the same modules as the model; in a tuple they are not registered twice.
        self._adapters: tuple[Any, ...] = ()
        self._encoders = None
        if options.lora is not None:
            between = projector_names(model, family)
            recompute_with_own_tensors(decoder.lm_head)
            self._adapters = (add_adapters(model, family, options.lora, quantized=options.quantize is not None),)
            if options.lora.on_encoders:
                self._encoders = AdaptedEncoders(family, model, between, options)
        self._kept = KeptFeatures()
        self.cache: FeatureCache | None = None
        if options.feature_cache is not None:
            # Now, because under ZeRO-3 nobody holds the whole weights later.
            self.cache = FeatureCache(options.feature_cache, weights_hash(*family.towers(model)))
        self.model = model
        self._static: dict[tuple[str, int], StaticDecoder] = {}

    # ---- the three verbs

    def encode(self, batch: OmniBatch) -> EncodedPrompts:
        """Encode a batch's clips, once: by the frozen towers, or from the feature cache.

        Where adapters change what the towers make of a clip, their inputs are kept instead, and the other verbs encode
        by the weights as they are then.
        """
        if self._encoders is not None:
            return EncodedPrompts.of(batch, ClipFeatures.none(len(batch)), inputs_of(batch))

        @torch.no_grad()
        def run_towers(part: OmniBatch) -> Any:
            return self.family.encode_clips(self.model, part, run_on_empty=self.is_partitioned)

        def read_or_run(part: OmniBatch) -> ClipFeatures:
            return run_towers(part) if self.cache is None else self.cache.encode(part, run_towers)

        return EncodedPrompts.of(batch, self._kept.encode(batch, read_or_run))

    def encode_to_generate(self, batch: OmniBatch) -> EncodedPrompts:
        """A batch's prompts for `generate` alone: the towers need not run where another engine prepares the clips."""
        if self.engine is None:
            return self.encode(batch)
        return EncodedPrompts.of(batch, ClipFeatures.none(len(batch)))

    def generate(
        self,
        prompts: EncodedPrompts,
        sampling: SamplingOptions,
        *,
        seeds: Sequence[int],
        group_size: int = 1,
        ignore_eos: bool = False,
    ) -> list[Completion]:
        """Sample `group_size` completions of each prompt; carries no gradient.

        Args:
            prompts: B encoded prompts.
            sampling: How to draw.
            seeds: One per completion (B * G), prompt by prompt; a completion depends on its prompt, policy and seed
                alone.
            group_size: G.
            ignore_eos: Go on to the longest length in any case, to measure time and memory; always natively.

        Returns:
            B * G completions, prompt by prompt.
        """
        if self.engine is not None and not ignore_eos:
            return self.engine.generate(self, prompts, sampling, seeds, group_size)

        def any_rank_running(running: bool) -> bool:
            return bool(all_reduce_max(int(running), prompts.token_ids[0].device))

        was_training = self.training
        self.eval()  # with gradient checkpointing, layers in training mode would not use the cache
        try:
            if self._encoders is not None:
                with torch.no_grad():
                    prompts = self._encoders.encode(prompts, run_on_empty=self.is_partitioned)
            with (self.whole_weights or contextlib.nullcontext)():
                return generate(
                    self.decoder,
                    prompts,
                    sampling,
                    eos_token_id=-1 if ignore_eos else self.inputs.end_token_id,
                    seeds=seeds,
                    group_size=group_size,
                    share_prefix=self.share_prefix,
                    static=self._static_decoder(sampling, group_size),
                    any_rank_running=any_rank_running if self.is_partitioned and self.whole_weights is None else None,
                )
        finally:
            self.train(was_training)

    def logprobs(
        self, prompts: EncodedPrompts, completions: Sequence[Tensor], *, balanced: Sequence[bool] | None = None
    ) -> Scores:
        """Log-probability of every token of given completions, with entropy.

        Args:
            prompts: B encoded prompts.
            completions: B * G tensors (R_i,) of token ids, prompt by prompt; may be empty.
            balanced: Of a mixture of experts: also the router loss, over the completions that are true here, each with
                its prompt. None does without.
        """
        return self.score(self.decoder, prompts, completions, balanced)

    # ---- what they are made of

    @property
    def decoder(self) -> Decoder:
        """The trained half."""
        return self.family.decoder(self.model)

    def score(
        self,
        decoder: Decoder,
        prompts: EncodedPrompts,
        completions: Sequence[Tensor],
        balanced: Sequence[bool] | None = None,
    ) -> Scores:
        """Log-probabilities by any decoder of this policy's shape, such as the reference's."""
        if self._encoders is not None:
            prompts = self._encoders.encode(prompts, run_on_empty=self.is_partitioned)
        packed = self.share_prefix and decoder.supports_packing
        states = completion_states(decoder, prompts, completions, packed=packed, counted=balanced)
        hidden, targets = states.to_score()
        chunks = chunk_count(len(targets))
        if self.is_partitioned:  # each chunk gathers weights: every rank has to make the same number
            chunks = all_reduce_max(chunks, states.targets.device)
        vocabulary = decoder.language_model.config.vocab_size
        # Of scattered weights every rank has to gather as often as the others, whatever its number of targets.
        small = not self.is_partitioned and hidden.device.type == "cpu" and len(targets) * vocabulary * 4 <= KEPT_LOGITS
        scores = score_tokens(hidden, targets, decoder.logits, chunks=chunks, keep_logits=small)
        logprobs, entropy, correct = map(states.of_each, (scores.logprobs, scores.entropy, scores.correct))
        router_loss, chosen = None, decoder.experts_per_token
        if states.routing is not None and chosen is not None:
            router_loss = load_balancing_loss(states.routing.logits, states.routing.weights, chosen)
        return Scores(logprobs, entropy, correct, states.completion_index, router_loss)

    def decoding_of(self, sampling: SamplingOptions) -> str:
        """How the native engine decodes: as the options say, or for `auto` what is fastest here."""
        packed = self.share_prefix and self.decoder.supports_packing
        # bitsandbytes' kernels were not tried in a recorded step
        recordable = packed and self.options.quantize is None and self.decoder.can_be_recorded
        on_gpu = next(self.decoder.lm_head.parameters()).is_cuda
        gathered = self.whole_weights is not None
        return decoding_for(
            sampling, on_gpu=on_gpu, scattered=self.is_partitioned, gathered=gathered, recordable=recordable
        )

    def _static_decoder(self, sampling: SamplingOptions, group_size: int) -> StaticDecoder | None:
        """Buffers of fixed shape, where the sampling options ask for them, or they are what is fastest here."""
        decoding = self.decoding_of(sampling)
        if decoding == "dynamic":
            return None
        if not (self.share_prefix and self.decoder.supports_packing):
            raise AvrtError(
                f"{decoding} decoding needs a shared prefix",
                where="decoding",
                remedy="set model.share_prefix: true and model.student.attention: sdpa, or decoding: dynamic",
            )
        if not self.decoder.can_be_recorded:
            raise AvrtError(
                f"{decoding} decoding records a CUDA graph: with experts in bfloat16 on H100, H200 or B200 alone",
                where="decoding",
                remedy="set it to auto or dynamic",
            )
        on_gpu = next(self.decoder.lm_head.parameters()).is_cuda
        gathers = self.is_partitioned and self.whole_weights is None
        if (self.is_partitioned and decoding == "compiled") or (gathers and on_gpu):
            raise AvrtError(
                f"a {'compiled' if decoding == 'compiled' else 'recorded'} step cannot gather the weights that ZeRO-3 "
                "scatters",
                where="decoding",
                remedy=f"use stage 2, or decoding: {'dynamic' if gathers and on_gpu else 'static'}",
            )
        key = decoding, group_size
        if key not in self._static:
            self._static[key] = StaticDecoder(compiled=decoding == "compiled", prompt_room=self.prompt_room)
        return self._static[key]

    def decode(self, token_ids: Tensor) -> str:
        """The text of some tokens, without special ones."""
        return str(self.inputs.tokenizer.decode(token_ids, skip_special_tokens=True))

    def decode_all(self, completions: Sequence[Tensor]) -> list[str]:
        """The texts of some completions, which are moved from the device together."""
        tokens = torch.cat(list(completions)).cpu()
        return [self.decode(part) for part in torch.split(tokens, [len(c) for c in completions])]

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self.family.context_length(self.model)

    def released_weights(self, *, everything: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Name in the released checkpoints, and tensor, of what another engine loads: decoder, and adapted towers.

        Adapters are merged, one layer at a time; see `avrt.policy.plain_weights`.

        Args:
            everything: False leaves out what is as it was: layers without an adapter where adapters are trained, and
                parts that never are. Where ranks hold parts of the weights, all have to read, and one that asks for
                everything gets it for all.
        """
        if self.is_partitioned:
            everything = bool(all_reduce_max(int(everything), next(self.decoder.lm_head.parameters()).device))
        without, everything = () if everything else self.decoder.frozen, everything or not self._adapters
        for prefix, part in self.family.released_parts(self.decoder):
            for name, tensor in plain_weights(part, everything=everything, gather=self.gather, without=without):
                yield from self.family.released_tensors(prefix + name, tensor)
        if self._encoders is not None:
            for prefix, part in self.family.released_encoders(self.model):
                for name, tensor in plain_weights(part, everything=False, gather=self.gather):
                    yield prefix + name, tensor

    def without_adapters(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which adapters, if there are any, are switched off."""
        return self._adapters[0].disable_adapter() if self._adapters else contextlib.nullcontext()

    def save_model(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write weights and configuration of the plain model, with adapters merged; the policy's own stay as they are.

        Args:
            folder: Where to.
            dtype: Round merged weights to this type; None to the one in which they are computed.
        """
        save_here(self.model, folder, plain_state(self.model, dtype))

    def save_adapters(self, folder: Path) -> None:
        """Write the adapters alone, as peft loads them beside the student's source.

        Raises:
            AvrtError: If there are none.
        """
        if not self._adapters:
            raise AvrtError("there are no adapters: all weights were trained", remedy="export the model")
        [adapters] = self._adapters
        for config in adapters.peft_config.values():
            config.base_model_name_or_path = self.options.source
        adapters.save_pretrained(folder, save_embedding_layers=False)

    def train(self, mode: bool = True) -> Policy:
        """Switch the mode of what is trained; what is frozen of the towers always stays in evaluation mode."""
        super().train(mode)
        for tower in self.family.towers(self.model):
            tower.eval()
        if self._encoders is not None:
            self._encoders.train(mode)
        return self


def load_policy(options: StudentOptions) -> Policy:
    """Load a student as a policy.

    Raises:
        AvrtError: If the source cannot be found, is of no known family, or lacks weights; the message says which.
    """
    family, dtype = find_family(options.source), getattr(torch, options.dtype)
    if options.source == family.nano:
        model, processor = family.make_nano(options.seed)
        convert_parameters(model, dtype)
        return Policy(family, model, processor, options)
    stock = "sdpa" if options.attention in ATTENTION_IMPLEMENTATIONS else options.attention
    try:
        model, processor, missing = family.load(model_source(options.source), dtype, stock)
    except (OSError, ValueError) as error:
        raise cannot_load(options.source, error) from None
    if missing:
        raise AvrtError(f"has no weights for {len(missing)} parameters, e.g. {missing[0]}", where=options.source)
    return Policy(family, model, processor, options)
