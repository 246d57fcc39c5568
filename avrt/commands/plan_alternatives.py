"""Which settings of a run fit a card, tried one by one; the fastest of them as what one would type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from avrt.commands.plan_settings import Settings
from avrt.models.cards import Card
from avrt.models.memory_estimate.held import Place

MICRO_BATCHES = (1, 2, 4, 8)
ALIKE = 1.03
"""Times whose ratio is smaller count as equal: then fewer changes are better, and then less memory."""


def alternatives(configured: Settings) -> Iterator[Settings]:
    """The run as configured, and with other offload, stage, reference, micro-batch, checkpointing and decoding."""
    yield configured
    scattered = [] if configured.parameters.quantized else [3]
    stages = [configured.how.stage] if configured.how.stage == 0 else sorted({2, *scattered, configured.how.stage})
    offloads = [False] if configured.how.stage == 0 else [False, True]
    sizes = sorted({min(size, len(configured.prompts.lengths)) for size in MICRO_BATCHES})
    recorded = configured.samples and not configured.parameters.quantized
    decodings = {configured.decoding, "static"} if recorded else {configured.decoding}
    references: tuple[Place, ...] = ("none",) if configured.how.reference == "none" else ("device", "host")
    for stage, offload, reference, size, checkpointing, decoding in product(
        stages, offloads, references, sizes, (False, True), sorted(decodings)
    ):
        if stage == 3 and decoding == "compiled":
            continue  # a compiled step cannot gather weights
        how = replace(configured.how, stage=stage, offload_optimizer=offload, reference=reference)
        yield replace(
            configured,
            shape=replace(configured.shape, checkpointing=checkpointing),
            micro_batch_size=size,
            decoding=decoding,
            how=how.with_reference(),
        )


def fastest(configured: Settings, card: Card) -> Settings | None:
    """The fastest alternative that fits, the configured one among equals; None if none does."""
    fitting = [settings for settings in alternatives(configured) if settings.fits(card)]
    if not fitting:
        return None
    best = min(settings.step(card) for settings in fitting)
    alike = [settings for settings in fitting if settings.step(card) <= ALIKE * best]
    return min(alike, key=lambda settings: (len(overrides(configured, settings)), settings.peak))


def smallest(configured: Settings) -> Settings:
    """The alternative that takes least memory."""
    return min(alternatives(configured), key=lambda settings: settings.peak)


def overrides(configured: Settings, wanted: Settings) -> list[str]:
    """What to add to the command line for other settings than the configured ones."""
    fields: dict[str, Callable[[Settings], object]] = {
        "--trainer.strategy.stage": lambda s: s.how.stage,
        "--trainer.strategy.offload_optimizer": lambda s: s.how.offload_optimizer,
        "--model.reference": lambda s: "host" if s.how.reference == "host" else "device",
        "--model.micro_batch_size": lambda s: s.micro_batch_size,
        "--model.student.gradient_checkpointing": lambda s: s.shape.checkpointing,
        "--model.rollout.decoding": lambda s: s.decoding,
    }
    return [f"{name} {str(read(wanted)).lower()}" for name, read in fields.items() if read(wanted) != read(configured)]
