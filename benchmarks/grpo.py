"""One GRPO step, phase by phase: avrt beside plain Hugging Face, on the same weights, prompts and tokens.

    python benchmarks/grpo.py --groups 4 16 --prompts 2000 --answer 165

Plain Hugging Face means `generate(num_return_sequences=G)` and full forward passes over G copies of the prompt, towers
included, with logits over every position, for the policy and for the reference. The student has the shape of
Qwen2.5-Omni-3B divided evenly by `--scale`. Phases alternate between the sides; the table gives the fastest of the
rounds and the growth of the process's peak memory in that phase.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs import InputBuilder, OmniBatch, PromptOptions
from avrt.data.media import SAMPLE_RATE, Clip
from avrt.data.sample import Modality, Sample
from avrt.models.nano import nano_config, nano_processor
from avrt.models.scoring import Prompts, response_states
from avrt.models.student import Reference, Student, StudentOptions
from avrt.objectives.likelihood import score_tokens
from avrt.rollout.engine import generate
from avrt.rollout.sampling import SamplingOptions

NO_END = -1
PHASES = ("rollout", "reference", "update")


@dataclass
class Result:
    """Seconds and peak memory growth in MB of one phase on one side."""

    seconds: float
    megabytes: float


def scaled_student(scale: int) -> Student:
    """A student of random weights with Qwen2.5-Omni-3B's proportions: widths and vocabulary / scale, depths / 6."""
    processor = nano_processor()
    config = nano_config(processor)
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    text.hidden_size, text.intermediate_size = 2048 // scale, 11008 // scale
    text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = 6, 8, 1
    text.layer_types = ["full_attention"] * 6
    text.vocab_size = 151_936 // scale
    half = text.hidden_size // text.num_attention_heads // 2
    text.rope_parameters["mrope_section"] = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    vision.depth, vision.hidden_size, vision.intermediate_size = 5, 1280 // scale, 3420 // scale
    vision.out_hidden_size, vision.fullatt_block_indexes, vision.num_heads = text.hidden_size, [2, 4], 4
    audio.encoder_layers, audio.d_model, audio.encoder_ffn_dim = 5, 1280 // scale, 5120 // scale
    audio.output_dim = text.hidden_size
    torch.manual_seed(0)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
    thinker.generation_config.eos_token_id = None
    thinker.generation_config.pad_token_id = 0
    return Student(thinker, processor, StudentOptions(source="scaled", dtype="float32"))


def make_batch(student: Student, prompt_tokens: int) -> OmniBatch:
    """One question about a 10 s clip with sound, of about `prompt_tokens` tokens: two thirds picture, 250 sound."""
    columns = max(2, round((prompt_tokens * 0.6 / 4) ** 0.5))
    frames = torch.randint(0, 255, (8, 3, 28 * columns, 28 * columns), dtype=torch.uint8)
    clip = Clip(frames, tuple(1.25 * i for i in range(8)), 1.25, audio=torch.randn(10 * SAMPLE_RATE) * 0.1)
    builder = InputBuilder(student.processor, student.ids, PromptOptions(audio_in_video=True))
    media = (Modality.VIDEO, Modality.AUDIO)

    def build(words: int) -> OmniBatch:
        return builder.row(Sample("q", "see " * words + "?", ("a", "b"), 0, media), clip)

    return build(max(1, prompt_tokens - len(build(1).prompt_ids[0])))


def ours(student: Student, reference: Reference, batch: OmniBatch, size: int, length: int) -> dict[str, Callable]:
    """The phases of avrt."""
    state: dict[str, Any] = {}

    def rollout() -> None:
        state["prompts"] = Prompts(batch.prompt_ids, batch.prompt_positions, student.encode(batch))
        answers = generate(
            student.text, state["prompts"], SamplingOptions(length), eos_token_id=NO_END, seeds=list(range(size)),
            group_size=size,
        )  # fmt: skip
        state["tokens"] = [answer.token_ids for answer in answers]

    def logprobs(text: Any) -> Tensor:
        states = response_states(text, state["prompts"], state["tokens"])
        return score_tokens(states.hidden, states.targets, text.lm_head).logprobs

    def score_reference() -> None:
        with torch.no_grad():
            logprobs(reference.text)

    def update() -> None:
        state["logprobs"] = logprobs(student.text)
        (-state["logprobs"].mean()).backward()

    return {"rollout": rollout, "reference": score_reference, "update": update, "state": lambda: state}


def plain(student: Student, reference: Any, batch: OmniBatch, size: int, length: int, tokens: Callable) -> dict:
    """The phases of plain Hugging Face, on the tokens that avrt sampled."""
    thinker, state = student.thinker, {}
    media = {
        "pixel_values_videos": batch.pixels,
        "video_grid_thw": batch.grids,
        "input_features": batch.mel,
        "feature_attention_mask": torch.ones(1, batch.mel.shape[-1], dtype=torch.long),
        "video_second_per_grid": torch.tensor([2.5]),
    }
    prompt = batch.prompt_ids[0][None]

    def rollout() -> None:
        with torch.no_grad():
            thinker.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), use_audio_in_video=True, **media,
                num_return_sequences=size, do_sample=True, max_new_tokens=length, min_new_tokens=length,
            )  # fmt: skip

    def logprobs(model: Any) -> Tensor:
        answers = torch.stack(tokens())
        ids = torch.cat([prompt.expand(size, -1), answers], dim=1)
        copies = {name: value.repeat(size, *[1] * (value.dim() - 1)) for name, value in media.items()}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_audio_in_video=True, **copies).logits
        kept = logits[:, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
        return kept.gather(-1, answers[..., None])[..., 0].flatten()

    def score_reference() -> None:
        with torch.no_grad():
            logprobs(reference)

    def update() -> None:
        state["logprobs"] = logprobs(thinker)
        (-state["logprobs"].mean()).backward()

    return {"rollout": rollout, "reference": score_reference, "update": update, "state": lambda: state}


def measure(phase: Callable[[], None]) -> Result:
    """Time one phase and the growth of peak memory that it causes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size
    before = _status("VmRSS")
    begun = time.perf_counter()
    phase()
    return Result(time.perf_counter() - begun, (_status("VmHWM") - before) / 1024)


def compare(student: Student, prompt_tokens: int, size: int, length: int, rounds: int) -> tuple[dict, int, float]:
    """Alternate both sides; returns the best result of each phase and side, prompt length, largest difference."""
    student.eval()
    batch = make_batch(student, prompt_tokens)
    reference, copied = Reference(student.text), copy.deepcopy(student.thinker)
    left = ours(student, reference, batch, size, length)
    right = plain(student, copied, batch, size, length, lambda: left["state"]()["tokens"])
    best: dict[tuple[str, str], Result] = {}
    difference = 0.0
    for _ in range(rounds):
        for phase in PHASES:
            for side, phases in (("avrt", left), ("plain", right)):
                result = measure(phases[phase])
                student.zero_grad()
                known = best.get((side, phase), Result(float("inf"), 0.0))
                best[side, phase] = Result(min(known.seconds, result.seconds), max(known.megabytes, result.megabytes))
        pair = left["state"]()["logprobs"].detach(), right["state"]()["logprobs"].detach()
        difference = max(difference, float((pair[0] - pair[1]).abs().max()))
    return best, len(batch.prompt_ids[0]), difference


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--answer", type=int, default=165)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    student = scaled_student(options.scale)
    table = Table(title=f"one GRPO step, plain Hugging Face / avrt ({options.threads} thread, scale 1/{options.scale})")
    for column in ("prompt", "G", "phase", "plain s", "avrt s", "times faster", "plain MB", "avrt MB", "memory"):
        table.add_column(column, justify="right")
    for prompt_tokens in options.prompts:
        for size in options.groups:
            best, tokens, difference = compare(student, prompt_tokens, size, options.answer, options.rounds)
            sums = {side: sum(best[side, p].seconds for p in PHASES) for side in ("avrt", "plain")}
            for phase in PHASES:
                a, b = best["avrt", phase], best["plain", phase]
                table.add_row(
                    str(tokens), str(size), phase, f"{b.seconds:.2f}", f"{a.seconds:.2f}",
                    f"{b.seconds / a.seconds:.1f}", f"{b.megabytes:.0f}", f"{a.megabytes:.0f}",
                    f"{a.megabytes / max(b.megabytes, 1):.2f}",
                )  # fmt: skip
            total = f"{sums['plain'] / sums['avrt']:.1f}"
            table.add_row(str(tokens), str(size), "step", f"{sums['plain']:.2f}", f"{sums['avrt']:.2f}", total)
            table.add_section()
            Console().print(f"prompt {tokens}, G {size}: log-probabilities differ by at most {difference:.1e}")
    Console().print(table)


def _status(field: str) -> int:
    """A size in kB from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main()
