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
from collections.abc import Callable
from typing import Any

import torch
from measuring import Result, make_batch, measure, scaled_student
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.policy.policy import Policy
from avrt.policy.reference import Reference
from avrt.rollout.sampling import SamplingOptions

PHASES = ("rollout", "reference", "update")


def ours(student: Policy, reference: Reference, batch: OmniBatch, size: int, length: int) -> dict[str, Callable]:
    """The phases of avrt."""
    state: dict[str, Any] = {}

    def rollout() -> None:
        state["prompts"] = student.encode(batch)
        completions = student.generate(
            state["prompts"], SamplingOptions(length), seeds=list(range(size)), group_size=size, ignore_eos=True
        )
        state["tokens"] = [completion.token_ids for completion in completions]

    def score_reference() -> None:
        reference.logprobs(state["prompts"], state["tokens"])

    def update() -> None:
        state["logprobs"] = student.logprobs(state["prompts"], state["tokens"]).logprobs
        (-state["logprobs"].mean()).backward()

    return {"rollout": rollout, "reference": score_reference, "update": update, "state": lambda: state}


def plain(student: Policy, reference: Any, batch: OmniBatch, size: int, length: int, tokens: Callable) -> dict:
    """The phases of plain Hugging Face, on the tokens that avrt sampled."""
    thinker, state = student.model, {}
    media = {
        "pixel_values_videos": batch.pixel_values,
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


def compare(student: Policy, prompt_tokens: int, size: int, length: int, rounds: int) -> tuple[dict, int, float]:
    """Alternate both sides; returns the best result of each phase and side, prompt length, largest difference."""
    student.eval()
    batch = make_batch(student, prompt_tokens)
    reference, copied = Reference(student), copy.deepcopy(student.model)
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


if __name__ == "__main__":
    main()
