"""`avrt doctor --plan CARD --config grpo.yaml ...`: memory and seconds by arithmetic, and which settings fit."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.commands.phases import GB
from avrt.commands.plan_alternatives import fastest, overrides, smallest
from avrt.commands.plan_settings import PAPER_BATCH, PAPER_STEPS, Prompts, Settings, settings_of
from avrt.commands.samples import first_batch
from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.models.cards import CARDS, Card, find_card
from avrt.models.families import find_config
from avrt.models.family import Family
from avrt.models.memory_estimate import checkpoint_bytes
from avrt.models.time_estimate import ASSUMED
from avrt.training.grpo_module import GRPOModule
from avrt.training.launch import read_config
from avrt.training.training_module import TrainingModule

TYPICAL_TEXT = 550
"""What a question of AVQA and its instruction take, in tokens, beside the clip."""
READ_SAMPLES = 8
PHASES = ("encode", "rollout", "reference", "update", "optimizer")


def plan(card_name: str, arguments: list[str], answer: int | None = None) -> int:
    """Print the forecast.

    Args:
        card_name: A card of `CARDS`, in any case.
        arguments: The configuration, as for `avrt fit`.
        answer: Completions of average length in tokens; by default AVRT's.

    Returns:
        The command's status: 0 if the run fits as it is configured, else 1.

    Raises:
        AvrtError: If card or student is not known, or nothing is trained.
    """
    card = find_card(card_name)
    module, data, trainer = read_config(arguments)
    if not isinstance(module, TrainingModule):
        raise AvrtError("plans training", where="doctor --plan", remedy="give it --config grpo.yaml or sft.yaml")
    source = module.student_options.source
    family, config, was_read = find_config(source)
    model = family.empty_model(config)
    prompts, told = _prompts(data, family, model, source)
    settings = settings_of(module, data, trainer, family, model, prompts, answer, capability=card.capability)
    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    numbers = settings.parameters
    origin = "" if was_read else " (by the released dimensions, which this package knows)"
    say(f"{source}{origin}: decoder {numbers.decoder / 1e9:.2f} G parameters, towers {numbers.towers / 1e9:.2f} G")
    if settings.lora is not None:
        four_bits = (
            f" on {numbers.quantized / 1e9:.2f} G in 4 bits (seconds as if in full)" if numbers.quantized else ""
        )
        say(f"adapters of rank {settings.lora.rank}: {numbers.trained / 1e6:.1f} M parameters{four_bits}")
    say(told)
    console.print(memory_table(settings))
    console.print(phase_table(settings, card))
    say(_verdict(settings, card))
    say(_schedule(settings, card, is_grpo=isinstance(module, GRPOModule)))
    for line in _disk(settings):
        say(line)
    for line in _notes(settings, module):
        say(line)
    for line in recommend(settings, card):
        say(line)
    return 0 if settings.fits(card) else 1


def memory_table(settings: Settings) -> Table:
    """What stays in memory, by part, on one device and of its rank on the host."""
    held, how = settings.held, settings.how
    table = Table(title=f"GB that one of {how.ranks} ranks holds")
    for column in ("part", "device", "host"):
        table.add_column(column, justify="left" if column == "part" else "right")
    parts: dict[str, tuple[float, float]] = {
        "weights, policy and towers": (held.weights, held.host_weights),
        f"reference ({how.reference})": (held.reference, held.host_reference),
        "gradients": (held.gradients, 0.0),
        "optimizer: float32 weights, two moments": (held.optimizer, held.host_optimizer),
        "decoding buffers": (settings.buffers, 0.0),
        "clip features of a batch": (settings.encoding.features, 0.0),
        "CUDA and its libraries (assumed)": (ASSUMED.own_memory, 0.0),
    }
    for name, (device, host) in parts.items():
        if device or host:
            table.add_row(name, _gb(device), _gb(host))
    table.add_section()
    table.add_row("at all times", _gb(sum(device for device, _ in parts.values())), _gb(held.host))
    return table


def phase_table(settings: Settings, card: Card) -> Table:
    """Memory at each phase's widest moment, and its seconds."""
    peaks, seconds = settings.peaks(), settings.seconds(card)
    table = Table(title="one step, phase by phase", caption="seconds: arithmetic, not measured")
    for column in ("phase", "GB", "s"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in PHASES:
        if phase in peaks or phase in seconds:
            peak = peaks.get(phase)
            style = "bold" if peak == settings.peak else None
            took = f"{seconds[phase]:.2f}" if phase in seconds else "-"
            table.add_row(phase, "-" if peak is None else _gb(peak), took, style=style)
    table.add_section()
    table.add_row("step", _gb(settings.peak), f"{settings.step(card):.2f}")
    return table


def recommend(settings: Settings, card: Card) -> list[str]:
    """The fastest settings that fit, as overrides."""
    best = fastest(settings, card)
    if best is None:
        least = smallest(settings)
        by = " ".join(overrides(settings, least)) or "these settings"
        fitting = [c.name for c in CARDS.values() if least.fits(c)]
        return [
            f"nothing that was tried fits: least memory, {least.peak / GB:.1f} GB, by {by}",
            "lower model.rollout.max_new_tokens or model.group_size, take more devices, or adapters: "
            f"model.student.lora; it fits {', '.join(fitting) or 'no card that is known here'}",
        ]
    changes = overrides(settings, best)
    if not changes:
        return ["fastest of what was tried: these settings"]
    host = f", and {best.held.host * best.how.ranks / GB:.0f} GB of the host" if best.held.host else ""
    return [
        f"fastest of what was tried: {best.step(card):.2f} s a step in {best.peak / GB:.1f} GB{host}, by",
        f"  {' '.join(changes)}",
    ]


def prompts_like(batch: OmniBatch, count: int) -> Prompts:
    """`count` prompts of a batch's lengths, whose rows come again where they are fewer."""
    rows = [i % len(batch) for i in range(count)]
    vision = sum(len(batch.vision_places[row]) for row in rows)
    audio = sum(len(batch.audio_places[row]) for row in rows)
    return Prompts(tuple(len(batch.prompt_ids[row]) for row in rows), vision, audio)


def _prompts(data: AVDataModule, family: Family, model: Any, source: str) -> tuple[Prompts, str]:
    """One rank's batch: as the training data have it, or else a typical one; and a line that says which."""
    count, why = data.batch_size, "no --data.train"
    if data.sources:
        try:
            processor = family.processor(source)
        except (OSError, ValueError):
            why = f"no processor for {source} here"
        else:
            batch = first_batch(data, family.inputs(model, processor), min(count, READ_SAMPLES))
            prompts = prompts_like(batch, count)
            least, most = min(prompts.lengths), max(prompts.lengths)
            return prompts, f"{count} prompts of {least:,} to {most:,} tokens, as in the first {len(batch)} samples"
    vision, audio = family.typical_clip
    prompt = TYPICAL_TEXT + vision + audio
    return Prompts((prompt,) * count, vision * count, audio * count), (
        f"{count} prompts of {prompt:,} tokens, {vision:,} of them of picture and {audio} of sound, as AVQA's have "
        f"about ({why})"
    )


def _verdict(settings: Settings, card: Card) -> str:
    room, cards = card.memory - settings.peak, f"{settings.how.ranks} x {card.name} of {card.memory / GB:.1f} GB"
    if settings.fits(card):
        return f"fits into {cards}, with {room / card.memory:.0%} spare"
    missing = f"{-room / GB:.1f} GB are missing" if room < 0 else f"{room / card.memory:.0%} spare, less than 10 %"
    return f"does not fit into {cards}: {missing}"


def _schedule(settings: Settings, card: Card, *, is_grpo: bool) -> str:
    questions = len(settings.prompts.lengths) * settings.how.ranks
    per_hour = 3600 / settings.step(card)
    told = f"{questions} samples a step, {per_hour:.0f} steps an hour"
    if is_grpo:
        hours = PAPER_STEPS * PAPER_BATCH / questions / per_hour
        told += f"; the questions of the paper's {PAPER_STEPS:,} steps take {hours:.1f} h"
    return told


def _disk(settings: Settings) -> list[str]:
    numbers, size = settings.parameters, settings.shape.bytes
    saved = checkpoint_bytes(numbers.trained, numbers.decoder + numbers.towers, size, settings.how.stage)
    exported = (numbers.decoder + numbers.towers) * size
    return [f"a checkpoint takes {saved / GB:.1f} GB on disk, an exported model {exported / GB:.1f} GB"]


def _notes(settings: Settings, module: TrainingModule) -> list[str]:
    """What the tables assume."""
    sampled, copies = "sampled" if settings.samples else "learned", ""
    if settings.how.offload_optimizer:
        kind, share = ("pinned", ASSUMED.pinned) if settings.pinned else ("pageable", ASSUMED.pageable)
        copies = f"; {kind} copies at {share:.0%} of the link"
    notes = [
        f"memory: completions of {settings.longest_answer} tokens, all of them, "
        f"in micro-batches of {settings.micro_batch_size}; seconds: {settings.answer} tokens on average, {sampled}",
        f"assumed: {ASSUMED.matmul:.0%} of peak operations, {ASSUMED.towers:.0%} in the towers, "
        f"{ASSUMED.bandwidth:.0%} of bandwidth; {ASSUMED.kernel * 1e6:.0f} us a kernel that no graph replays{copies} "
        "(avrt/models/time_estimate.py)",
    ]
    if isinstance(module, GRPOModule) and module.vllm_options is not None:
        notes.append("vLLM's share of memory and time is not in the tables: see model.vllm.settings")
    if settings.lora is not None and settings.lora.on_encoders:
        notes.append(
            "what towers with adapters keep for their gradient, and their repeated passes, are not in the tables"
        )
    return notes


def _gb(count: float) -> str:
    return f"{count / GB:.2f}" if count else "-"
