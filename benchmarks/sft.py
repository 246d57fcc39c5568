"""One SFT step: avrt beside the plain Hugging Face forward pass with labels, at the full vocabulary.

    python benchmarks/sft.py --samples 4 --prompt 2000 --answer 165

Both sides run on the same weights and samples, and the difference of their losses is printed. Plain Hugging Face pads
the batch and makes logits over every position; avrt packs it and makes them over answer tokens, in chunks. The table
gives the fastest of the rounds and the growth of the process's peak memory.
"""

from __future__ import annotations

import argparse

import torch
from measuring import Result, make_batch, measure, scaled_student
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avrt.data.inputs.batch import collate
from avrt.objectives.token_scores import completion_loss


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--answer", type=int, default=165)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    student = scaled_student(options.scale, options.vocabulary)
    lengths = [options.prompt - 100 * i for i in range(options.samples)]
    trace = "<think>" + "it is seen " * (options.answer // 3) + "</think><answer>A</answer>"
    rows = [make_batch(student, length, trace) for length in lengths]
    batch = collate(rows)
    losses: dict[str, Tensor] = {}

    def ours() -> None:
        logprobs = student.logprobs(student.encode(batch), batch.completion_ids).logprobs
        losses["avrt"] = completion_loss(logprobs, torch.ones_like(logprobs), len(logprobs))
        losses["avrt"].backward()

    def plain() -> None:
        whole = [torch.cat(pair) for pair in zip(batch.prompt_ids, batch.completion_ids, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
        labels = ids.masked_fill(mask == 0, -100)
        for row, prompt in enumerate(batch.prompt_ids):
            labels[row, : len(prompt)] = -100
        frames = torch.arange(batch.mel.shape[-1])
        losses["plain"] = student.model(
            input_ids=ids, attention_mask=mask, labels=labels, use_audio_in_video=True,
            pixel_values_videos=batch.pixel_values, video_grid_thw=batch.grids, input_features=batch.mel,
            feature_attention_mask=(frames < batch.mel_lengths[:, None]).long(),
            video_second_per_grid=torch.full((len(rows),), 2.5),
        ).loss  # fmt: skip
        losses["plain"].backward()

    best: dict[str, Result] = {}
    for _ in range(options.rounds):
        for side, step in (("avrt", ours), ("plain", plain)):
            result = measure(step)
            student.zero_grad()
            known = best.get(side, Result(float("inf"), 0.0))
            best[side] = Result(min(known.seconds, result.seconds), max(known.megabytes, result.megabytes))
    difference = abs(losses["avrt"].item() - losses["plain"].item())
    answers = sum(len(r) for r in batch.completion_ids)
    console = Console()
    console.print(
        f"{options.samples} samples, prompts {lengths}, {answers} answer tokens; losses differ by {difference:.1e}"
    )
    table = Table(title=f"one SFT step, vocabulary {options.vocabulary:,} ({options.threads} thread)")
    for column in ("", "plain", "avrt", "plain / avrt"):
        table.add_column(column, justify="right")
    a, b = best["avrt"], best["plain"]
    table.add_row("seconds", f"{b.seconds:.2f}", f"{a.seconds:.2f}", f"{b.seconds / a.seconds:.1f}")
    table.add_row("peak MB", f"{b.megabytes:.0f}", f"{a.megabytes:.0f}", f"{b.megabytes / a.megabytes:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
