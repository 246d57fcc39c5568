"""The phases of a GRPO step, run once and measured: seconds and memory beside the forecast, for `avrt doctor`."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from avrt.data.inputs.batch import OmniBatch
from avrt.models.memory_estimate import Shape, expected_bytes
from avrt.models.memory_estimate.decoder_shape import shape_of_decoder
from avrt.policy.policy import Policy
from avrt.rollout.sampling import SamplingOptions

GB = 1e9
M_MMAP_THRESHOLD, MAPPED_BYTES = -3, 2**18  # glibc's malloc.h


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
        name: `rollout`, `reference` or `update`.
        seconds: How long it took.
        measured: Growth of the device's peak memory, in bytes.
        expected: What the forecast says, in bytes.
    """

    name: str
    seconds: float
    measured: int
    expected: int


def shape_of(policy: Policy) -> Shape:
    """The policy's shape."""
    options = policy.options
    return shape_of_decoder(
        policy.decoder,
        next(policy.decoder.lm_head.parameters()).element_size(),
        checkpointing=options.gradient_checkpointing,
        frozen=options.lora is not None,
        adapter_dropout=options.lora is not None and options.lora.dropout > 0,
    )


def run_phases(policy: Policy, batch: OmniBatch, group_size: int, length: int) -> list[Phase]:
    """Sample, score and differentiate one micro-batch whose completions all have `length` tokens."""
    prompts, sampling = policy.encode(batch), SamplingOptions(max_new_tokens=length)
    count = len(batch) * group_size
    tokens = [torch.zeros(length, dtype=torch.long, device=batch.valid.device) for _ in range(count)]

    def rollout() -> None:
        policy.generate(prompts, sampling, seeds=list(range(count)), group_size=group_size, ignore_eos=True)

    def reference() -> None:
        with torch.no_grad():
            policy.logprobs(prompts, tokens)

    def update() -> None:
        policy.train()
        torch.autograd.backward(policy.logprobs(prompts, tokens).logprobs.sum())

    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # gradients are not this phase's, but there at all times
    expected = expected_bytes(shape_of(policy), [len(p) for p in batch.prompt_ids], group_size, length)
    phases = {"rollout": rollout, "reference": reference, "update": update}
    measured = [Phase(name, *_measure(phase, batch.valid.device), expected[name]) for name, phase in phases.items()]
    policy.zero_grad(set_to_none=True)
    return measured


def phase_table(phases: list[Phase]) -> Table:
    """Seconds and memory of each phase, as measured and as forecast."""
    table = Table(title="one micro-batch, phase by phase")
    for column in ("phase", "s", "memory, MB", "expected, MB"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in phases:
        table.add_row(phase.name, f"{phase.seconds:.2f}", f"{phase.measured / 1e6:.0f}", f"{phase.expected / 1e6:.0f}")
    return table


def advice(forecast: dict[str, int], fixed: float, available: float | None, *, checkpointing: bool) -> list[str]:
    """What to change, given what a step should take.

    Args:
        forecast: Bytes of each phase at the configured lengths.
        fixed: Bytes of weights, gradients and optimizer states.
        available: Bytes of the device; None if it is not known.
        checkpointing: Whether gradient checkpointing is on.
    """
    largest = max(forecast, key=lambda name: forecast[name])
    needed = fixed + forecast[largest]
    told = [f"a step should take {needed / GB:.1f} GB, {fixed / GB:.1f} GB of it for good; most in: {largest}"]
    if available is None:
        return told
    if needed <= 0.9 * available:
        room = (0.9 * available - fixed) / forecast[largest]
        told.append(f"that fits into {available / GB:.0f} GB; a micro-batch could be {room:.1f} times as large")
    elif fixed > 0.8 * available:
        told.append(f"{available / GB:.0f} GB are too few: --trainer.strategy.stage 3, or model.student.lora")
    elif largest == "update" and not checkpointing:
        told.append(f"{available / GB:.0f} GB are too few: --model.student.gradient_checkpointing true")
    else:
        told.append(f"{available / GB:.0f} GB are too few: lower model.micro_batch_size or model.group_size")
    return told


def _measure(phase: Callable[[], None], device: torch.device) -> tuple[float, int]:
    """Seconds, and the growth of the peak memory of the device, or of the process on the CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        begun = time.perf_counter()
        phase()
        torch.cuda.synchronize(device)
        return time.perf_counter() - begun, torch.cuda.max_memory_allocated(device) - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        begun = time.perf_counter()
        phase()
        return time.perf_counter() - begun, 0
    _give_back_free_memory()
    reset.write_text("5")  # sets the peak to the present size
    before = _resident("VmRSS")
    begun = time.perf_counter()
    phase()
    return time.perf_counter() - begun, _resident("VmHWM") - before


def _give_back_free_memory() -> None:
    """Have glibc return what earlier phases freed, and what this one will; else it would be kept for later use.

    Freed memory that is used again does not show as growth, and freed memory that is kept shows as growth that a GPU
    would not have. Blocks that are mapped one by one go back at once; by itself glibc raises the size from which it
    does so to 32 MB.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.malloc_trim(0)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
