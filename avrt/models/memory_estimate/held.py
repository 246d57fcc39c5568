"""Bytes that stay from step to step: weights, gradients and optimizer states, on a device and on the host.

What DeepSpeed allocates was read in version 0.19: `runtime/engine.py` (which optimizer serves which setting),
`runtime/zero/stage_1_and_2.py`, `runtime/zero/stage3.py` and `runtime/bf16_optimizer.py`. Function names below are of
these files. Padding of partitions is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from avrt.models.memory_estimate.shape import FLOAT32

LIVE_WEIGHTS = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at a time (`max_live_parameters` of `runtime/zero/config.py`)."""
FOUR_BIT = 0.5 + FLOAT32 / 64
"""Bytes of a weight in 4 bits: half a byte, and a scale in float32 for each block of 64."""
Place = Literal["none", "device", "host", "partitioned"]


@dataclass(frozen=True)
class Partitioning:
    """How training is spread over ranks and host.

    Attributes:
        stage: ZeRO stage; 1 splits optimizer states, 2 gradients too, 3 weights too. 0: no DeepSpeed, PyTorch's AdamW.
        ranks: Number of devices.
        offload_optimizer: Whether optimizer states are in the host's memory.
        offload_parameters: Whether the partitions of the weights are, under stage 3.
        accumulate: Bytes of one accumulated gradient; 4 under `grad_accum_dtype: fp32`.
        bucket: Gradient elements reduced at a time.
        overlap: Whether reducing goes on beside the backward pass, with a second bucket.
        reference: Where the reference's copy of the trained weights is; `none` at beta 0 and under LoRA.
    """

    stage: int = 2
    ranks: int = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False
    accumulate: int = FLOAT32
    bucket: int = 50_000_000
    overlap: bool = True
    reference: Place = "device"

    def accumulates_on_host(self, element_size: int) -> bool:
        """Whether gradients of weights of this size accumulate on the host."""
        return self.offload_optimizer and (self.stage == 3 or self.accumulate == element_size)

    def with_reference(self) -> Partitioning:
        """The same with a reference on the device partitioned under stage 3, which partitions all that is there."""
        if self.reference in ("none", "host"):
            return self
        return replace(self, reference="partitioned" if self.stage == 3 else "device")


@dataclass(frozen=True)
class Held:
    """Bytes on one device, and of one rank on the host.

    Attributes:
        weights: Policy and towers.
        reference: The reference's copy.
        gradients: What accumulates over a step's micro-batches.
        optimizer: Master weights and two moments.
        backward: Beside these in a backward pass: buckets, and gradients on their way through them.
        step: Beside these in the optimizer's step.
        gathered: Whole weights at the moment they are used: those that ZeRO-3 gathers, or a 4-bit one in its full type.
        host_optimizer: Optimizer states, gradients and buffers on the host.
        host_weights: Weights of policy and towers on the host.
        host_reference: The reference's copy there; it comes to the device while it scores.
    """

    weights: float
    reference: float
    gradients: float
    optimizer: float
    backward: float
    step: float
    gathered: float
    host_optimizer: float
    host_weights: float
    host_reference: float

    @property
    def always(self) -> float:
        """Bytes on the device at all times."""
        return self.weights + self.reference + self.gradients + self.optimizer

    @property
    def host(self) -> float:
        """Bytes of one rank on the host."""
        return self.host_optimizer + self.host_weights + self.host_reference


def held_bytes(
    trained: int,
    frozen: int,
    element_size: int,
    how: Partitioning,
    *,
    copied: int | None = None,
    largest: int = 0,
    largest_of_all: int = 0,
    quantized: int = 0,
    largest_quantized: int = 0,
) -> Held:
    """Bytes of weights, gradients and optimizer states.

    Args:
        trained: Parameters that are trained.
        frozen: Parameters that are not, the reference aside.
        element_size: Bytes of one weight.
        how: Ranks, stage, offload, reference.
        copied: Parameters of the reference; by default the trained ones.
        largest: Parameters of the largest trained tensor.
        largest_of_all: Of the largest tensor, trained or not: ZeRO-3 gathers it in one piece.
        quantized: Frozen parameters in 4 bits.
        largest_quantized: Parameters of the largest of them.
    """
    size, split = element_size, how.ranks
    weights = (trained + frozen - quantized) * size + quantized * FOUR_BIT
    reference = (trained if copied is None else copied) * size if how.reference != "none" else 0.0
    # page-locked memory comes in blocks of a power of two
    copy_on_host = 2.0 ** math.ceil(math.log2(reference)) if how.reference == "host" and reference else 0.0
    reference = 0.0 if how.reference == "host" else reference
    gathered = float(largest_quantized * size)
    if how.stage == 3:
        # `partition_parameters.py` splits frozen parameters too; a module's weights are whole while it runs.
        gathered = max(min(LIVE_WEIGHTS * size, weights), largest_of_all * size)
        weights /= split
        if how.reference == "partitioned":
            reference /= split
    held = _optimizer_of(how, trained, size, largest)
    weights_on_host = weights if how.stage == 3 and how.offload_parameters else 0.0
    return Held(
        weights=weights - weights_on_host,
        reference=reference,
        gathered=gathered,
        host_weights=weights_on_host,
        host_reference=copy_on_host,
        **held,
    )


def _optimizer_of(how: Partitioning, trained: int, size: int, largest: int) -> dict[str, float]:
    """The fields of `Held` that the optimizer decides, for `trained` parameters of `size` bytes each."""
    states = trained * 3 * FLOAT32 / how.ranks  # master weights in float32, two moments
    share = trained * FLOAT32 / how.ranks
    # A gradient larger than a bucket (embeddings, vocabulary projection) is reduced where the backward pass put it.
    oversized = largest * size if largest > how.bucket else 0
    if how.stage == 0:
        # torch.optim.AdamW keeps its moments in the weights' type, and its step takes a square root of one of them.
        whole = float(trained * size)
        return _fields(gradients=whole, optimizer=2 * whole, backward=0, step=whole)
    if how.stage == 3:
        return _stage_3(how, trained, size, states, share, oversized)
    # `setup_buckets`: one bucket, or two with overlap, in the weights' type; in float32 under stage 1
    # (`_gradient_reduction_buffer_dtype`).
    separate = how.accumulate != size
    staged = how.accumulate if separate and how.stage == 1 else size
    backward = float(how.bucket * staged * (2 if how.overlap else 1) + oversized)
    gradients = trained * how.accumulate / how.ranks
    if how.stage == 1:
        # `param.grad_accum`, or the parameters' own gradients: whole on every rank, and at the step's last micro-batch
        # this rank's share once more
        backward += gradients
        gradients = float(trained * how.accumulate)
    elif how.accumulates_on_host(size):
        gradients = 0.0  # `accumulated_grads_in_cpu`
    elif not separate:
        backward += gradients  # `grads_in_partition` of this micro-batch, added to `all_grad_tensors` afterwards
    # else `_build_compact_grad_partition_buffer`: one flat float32 partition, on the device also under offload
    if not how.offload_optimizer:
        # Adam's square root of a moment. With separate gradients `step` takes the flat partition as it is, otherwise
        # it flattens and converts it.
        return _fields(gradients=gradients, optimizer=states, backward=backward, step=share * (1 if separate else 2))
    # Host: master weights and moments; their gradient (`initialize_optimizer_states`); the updated weights in their own
    # type (`param_buffer_of_bit16_for_cpu_offload_groups`); accumulated gradients if not on the device; and one
    # parameter's gradient on its way, on both sides (`temp_grad_buffer_for_cpu_offload`, `..._gpu_offload`).
    waiting = 0.0 if separate else trained * size / how.ranks
    host = states + share + trained * size / how.ranks + waiting + largest * size
    return _fields(gradients=gradients, optimizer=0, backward=backward + largest * size, step=0, host=host)


def _stage_3(
    how: Partitioning, trained: int, size: int, states: float, share: float, oversized: int
) -> dict[str, float]:
    """`DeepSpeedZeroOptimizer_Stage3`.

    `grad_partitions_flat_buffer` accumulates, on the host under offload; there is one bucket; all parameters are one
    sub-group (Lightning's `sub_group_size`), so that `_prepare_fp32_grad_for_sub_group` makes a second float32 copy of
    all gradients for the step.
    """
    gradients = trained * how.accumulate / how.ranks
    backward = how.bucket * size + oversized
    if how.offload_optimizer:
        # on the host also each sub-group's gradient (`initialize_optimizer_states`)
        return _fields(gradients=0, optimizer=0, backward=backward, step=0, host=states + share + gradients)
    return _fields(gradients=gradients, optimizer=states, backward=backward, step=2 * share)


def _fields(*, gradients: float, optimizer: float, backward: float, step: float, host: float = 0) -> dict[str, float]:
    return {
        "gradients": float(gradients),
        "optimizer": float(optimizer),
        "backward": float(backward),
        "step": float(step),
        "host_optimizer": float(host),
    }


def checkpoint_bytes(trained: int, frozen: int, element_size: int, stage: int, copied: int = 0) -> int:
    """Bytes of one checkpoint of a run on disk, all ranks' files together.

    Under DeepSpeed (`exclude_frozen_parameters`) the trained weights in their own type, once, and master weights with
    two moments in float32; under stage 3 the weights are in the latter alone. Without DeepSpeed everything the module
    holds, and two moments.
    """
    if stage == 0:
        return (trained * 3 + frozen + copied) * element_size
    return trained * (3 * FLOAT32 + (element_size if stage < 3 else 0))
