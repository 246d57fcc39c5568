"""What a run's memory and time depend on, read from its configuration, and the forecast for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.models.cards import Card
from avrt.models.decoder import Decoder, experts_stay_on_device
from avrt.models.family import EncodingCost, Family
from avrt.models.memory_estimate import (
    Held,
    Partitioning,
    Shape,
    held_bytes,
    rollout_bytes,
    scoring_bytes,
    update_bytes,
)
from avrt.models.memory_estimate.activations import buffer_bytes, decoding_bytes, prefill_bytes
from avrt.models.memory_estimate.decoder_shape import shape_of_decoder
from avrt.models.memory_estimate.held import Place
from avrt.models.memory_estimate.shape import FLOAT32
from avrt.models.time_estimate import ASSUMED, Work, seconds_per_phase
from avrt.policy.adapters import adapted_names
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.sampling import decoding_for
from avrt.rollout.static import PROMPT_MULTIPLE
from avrt.training.evaluation_module import EvaluationModule, refuse_scattered
from avrt.training.grpo_module import GRPOModule
from avrt.training.strategy import OmniDeepSpeedStrategy
from avrt.training.training_module import TrainingModule

ELEMENT_SIZE = {"float32": 4, "bfloat16": 2}
PAPER_STEPS = 1254
PAPER_BATCH = 32


@dataclass(frozen=True)
class Prompts:
    """The prompts of one rank's batch.

    Attributes:
        lengths: Tokens of each.
        vision: Tokens of pictures and videos among them, all together.
        audio: Tokens of sound.
    """

    lengths: tuple[int, ...]
    vision: int
    audio: int


@dataclass(frozen=True)
class Parameters:
    """How many there are.

    Attributes:
        trained: Those that are trained: the decoder's but for its frozen parts, or adapters on it.
        decoder: The decoder's own.
        towers: The towers'.
        largest: Of the largest trained tensor.
        largest_of_all: Of the largest tensor of decoder and towers.
        quantized: Those of the decoder in 4 bits.
        largest_quantized: Of the largest of them.
    """

    trained: int
    decoder: int
    towers: int
    largest: int
    largest_of_all: int
    quantized: int = 0
    largest_quantized: int = 0


@dataclass(frozen=True)
class Settings:
    """A run, on one of its devices.

    Attributes:
        shape: The decoder.
        parameters: Their numbers.
        encoding: What encoding the batch costs.
        prompts: The batch.
        group_size: G; 1 in fine-tuning.
        answer: Completions of average length in tokens, for time.
        longest_answer: The longest completion, for memory.
        longest_prompt: Room for a prompt in fixed buffers.
        micro_batch_size: Groups per forward and backward pass.
        samples: Whether completions are sampled here.
        decoding: How: `dynamic`, `static` or `compiled`.
        slots: Prompts that are decoded at once.
        how: Ranks, stage, offload, reference.
        nodes: Machines that the ranks are on.
        gathers_once: Whether ZeRO-3 gathers the decoder once for all tokens of a rollout.
        pinned: Whether offloaded memory is pinned.
        lora: Adapters, if they are what is trained.
    """

    shape: Shape
    parameters: Parameters
    encoding: EncodingCost
    prompts: Prompts
    group_size: int
    answer: int
    longest_answer: int
    longest_prompt: int
    micro_batch_size: int
    samples: bool
    decoding: str
    slots: int
    how: Partitioning
    nodes: int
    gathers_once: bool
    pinned: bool
    lora: LoraOptions | None

    @property
    def held(self) -> Held:
        """Weights, gradients and optimizer states."""
        numbers = self.parameters
        frozen = numbers.towers + numbers.decoder - (numbers.trained if self.lora is None else 0)
        return held_bytes(
            numbers.trained, frozen, self.shape.bytes, self.how, largest=numbers.largest,
            largest_of_all=numbers.largest_of_all, quantized=numbers.quantized,
            largest_quantized=numbers.largest_quantized,
        )  # fmt: skip

    @property
    def buffers(self) -> int:
        """Bytes of fixed decoding buffers, which stay."""
        if not self.samples or self.decoding == "dynamic":
            return 0
        return buffer_bytes(self.shape, self.slots, self.longest_prompt, self.group_size, self.longest_answer)

    @property
    def whole_decoder(self) -> int:
        """Bytes of the decoder where ZeRO-3 has to gather it; 0 elsewhere."""
        return self.parameters.decoder * self.shape.bytes if self.how.stage == 3 else 0

    def peaks(self, own_memory: float = ASSUMED.own_memory) -> dict[str, float]:
        """Bytes on the device at the widest moment of each phase, with all that stays.

        Args:
            own_memory: Bytes beside PyTorch's own account.
        """
        held, group = self.held, self.group_size
        lengths = sorted(self.prompts.lengths, reverse=True)
        always = held.always + self.buffers + self.encoding.features
        peaks = {"encode": always + self.encoding.working + held.gathered}
        if self.samples:
            if self.buffers:
                rows, context = self.slots * group, self.longest_prompt + self.longest_answer
                taken = prefill_bytes(self.shape, lengths[: self.slots])
                sampled = max(taken, decoding_bytes(self.shape, rows, context))
            else:
                sampled = rollout_bytes(self.shape, lengths, group, self.longest_answer)
            gathered = self.whole_decoder if self.gathers_once else held.gathered
            peaks["rollout"] = always + sampled + gathered
        worst = lengths[: self.micro_batch_size]
        if self.how.reference != "none":
            # It scores before the update; from the host its weights come for that.
            scoring = scoring_bytes(self.shape, worst, group, self.longest_answer)
            brought = held.host_reference
            peaks["reference"] = always + scoring + held.gathered + brought
        update = update_bytes(self.shape, worst, group, self.longest_answer)
        peaks["update"] = always + update + held.backward + held.gathered
        peaks["optimizer"] = always + held.step
        return {phase: peak + own_memory for phase, peak in peaks.items()}

    @property
    def peak(self) -> float:
        """Bytes on the device at the widest moment of a step."""
        return max(self.peaks().values())

    def fits(self, card: Card) -> bool:
        """Whether a step leaves a tenth of the card's memory free."""
        return self.peak <= 0.9 * card.memory

    def seconds(self, card: Card) -> dict[str, float]:
        """Seconds of each phase."""
        held, longest = self.held, min(self.longest_answer, round(self.answer * ASSUMED.longest))
        work = Work(
            prompts=self.prompts.lengths,
            group_size=self.group_size,
            answer=self.answer,
            longest=longest if self.samples else self.answer,
            trained=self.parameters.trained,
            encoding=self.encoding.operations,
            micro_batch_size=self.micro_batch_size,
            samples=self.samples,
            recorded=self.decoding != "dynamic",
            reference=self.how.reference != "none",
            moved=held.host_reference,
            gathered=self.whole_decoder * (self.how.ranks - 1) / self.how.ranks,
            gathers_each_token=not self.gathers_once,
            ranks=self.how.ranks,
            nodes=self.nodes,
            stage=self.how.stage,
            offload=self.how.offload_optimizer,
            pinned=self.pinned,
            accumulates_on_host=self.how.accumulates_on_host(self.shape.bytes),
        )
        return seconds_per_phase(self.shape, card, work)

    def step(self, card: Card) -> float:
        """Seconds of a step."""
        return sum(self.seconds(card).values())


def count_parameters(family: Family, model: nn.Module, decoder: Decoder, options: StudentOptions) -> Parameters:
    """Exact numbers, from the shapes of a model without weights."""
    lora = options.lora
    own = {id(p): p for part in (decoder.language_model, decoder.lm_head) for p in part.parameters()}
    total = sum(p.numel() for p in own.values())
    encoders = [p.numel() for tower in family.towers(model) for p in tower.parameters()]
    towers, largest = sum(encoders), max(*encoders, *(p.numel() for p in own.values()))
    if lora is None:
        never = {id(p) for part in decoder.frozen for p in part.parameters()}
        trained = [p.numel() for number, p in own.items() if number not in never]
        return Parameters(sum(trained), total, towers, max(trained), largest)
    adapted = _linear_layers(model, adapted_names(model, family, lora.modules))
    adapters = [lora.rank * width for layer in adapted for width in (layer.in_features, layer.out_features)]
    numbers = Parameters(sum(adapters), total, towers, max(adapters), largest)
    if options.quantize is None:
        return numbers
    rounded = _linear_layers(model, adapted_names(model, family, ["decoder"]))
    sizes = [layer.in_features * layer.out_features for layer in rounded]
    return replace(numbers, quantized=sum(sizes), largest_quantized=max(sizes))


def _linear_layers(model: nn.Module, names: Sequence[str]) -> list[nn.Linear]:
    return [layer for name in names if isinstance(layer := model.get_submodule(name), nn.Linear)]


def partitioning_of(module: EvaluationModule, trainer: Trainer) -> tuple[Partitioning, bool]:
    """How a run is spread, and whether its offloaded memory is pinned.

    Raises:
        AvrtError: If the strategy refuses it.
    """
    reference: Place = "none"
    if isinstance(module, GRPOModule) and module.options.loss.beta and module.student_options.lora is None:
        reference = module.reference_place
    element = ELEMENT_SIZE[module.student_options.dtype]
    strategy = trainer.strategy
    if isinstance(strategy, OmniDeepSpeedStrategy) and strategy.zero_stage_3:
        refuse_scattered(module.student_options)
    config: dict[str, Any] = strategy.config or {} if isinstance(strategy, OmniDeepSpeedStrategy) else {}
    if not config:
        return Partitioning(stage=0, ranks=trainer.world_size, accumulate=element, reference=reference), False
    zero = config["zero_optimization"]
    if zero["stage"] == 1 and "offload_optimizer" not in zero and element < FLOAT32:
        raise AvrtError(
            "1 without offload cannot add gradients in float32 to weights in bfloat16",
            where="trainer.strategy.stage",
            remedy="set --trainer.strategy.stage 2, which takes less memory",
        )
    in_float32 = config.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    how = Partitioning(
        stage=zero["stage"],
        ranks=trainer.world_size,
        offload_optimizer="offload_optimizer" in zero,
        offload_parameters="offload_param" in zero,
        accumulate=FLOAT32 if in_float32 else element,
        bucket=zero["reduce_bucket_size"],
        overlap=zero["overlap_comm"],
        reference=reference,
    )
    return how.with_reference(), bool(zero.get("offload_optimizer", {}).get("pin_memory"))


def settings_of(
    module: TrainingModule, data: AVDataModule, trainer: Trainer, family: Family, model: nn.Module, prompts: Prompts,
    answer: int | None = None, *, capability: tuple[int, int] | None,
) -> Settings:  # fmt: skip
    """A configured run.

    Args:
        module: What is trained.
        data: Its data.
        trainer: Its trainer.
        family: The student's family.
        model: The student, of which sizes are read alone.
        prompts: One rank's batch.
        answer: Completions of average length in tokens; by default AVRT's.
        capability: The compute capability of the GPU that it is to run on; None for a CPU.
    """
    options, decoder = module.student_options, family.decoder(model)
    how, pinned = partitioning_of(module, trainer)
    stays = (
        decoder.experts_per_token is None
        or capability is None
        or experts_stay_on_device(getattr(torch, options.dtype), capability)
    )
    count = len(prompts.lengths)
    sampling = module.options.sampling if isinstance(module, GRPOModule) else None
    longest = 2 * ASSUMED.answer if sampling is None else sampling.max_new_tokens
    gathers_once = getattr(trainer.strategy, "gather_for_generation", True)
    encoding_cost = family.scattered_encoding_cost if how.stage == 3 else family.encoding_cost
    in_step = how.stage == 3 and not gathers_once  # ranks then decode all prompts at once
    slots = count if sampling is None or in_step else min(count, sampling.prompts_at_once or count)
    return Settings(
        shape=shape_of(options, decoder),
        parameters=count_parameters(family, model, decoder, options),
        encoding=encoding_cost(model, prompts.vision, prompts.audio, ELEMENT_SIZE[options.dtype]),
        prompts=prompts,
        group_size=module.options.group_size if isinstance(module, GRPOModule) else 1,
        answer=min(longest, answer or ASSUMED.answer),
        longest_answer=longest,
        longest_prompt=data.prompt.max_prompt_tokens or -(-max(prompts.lengths) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE,
        micro_batch_size=min(module.micro_batch_size, count),
        samples=isinstance(module, GRPOModule) and module.vllm_options is None,
        decoding="dynamic"
        if sampling is None
        else decoding_for(
            sampling,
            on_gpu=capability is not None,
            scattered=how.stage == 3,
            gathered=gathers_once,
            recordable=options.quantize is None and stays,
        ),
        slots=slots,
        how=how,
        nodes=trainer.num_nodes,
        gathers_once=gathers_once,
        pinned=pinned,
        lora=options.lora,
    )


def shape_of(options: StudentOptions, decoder: Decoder) -> Shape:
    """The shape of a student's decoder."""
    return shape_of_decoder(
        decoder,
        ELEMENT_SIZE[options.dtype],
        checkpointing=options.gradient_checkpointing,
        frozen=options.lora is not None,
        adapter_dropout=options.lora is not None and options.lora.dropout > 0,
    )
