"""The packed update step beside the padded one, for each model family: seconds and bytes kept for the backward pass.

Usage: python benchmarks/families.py [--groups 4 8 16] [--rounds 3] [--out FILE]

Each family's nano student scores groups of random completions of 32 to 96 tokens, with gradient, on the CPU. Prompts
have 8 frames of 224 x 196 and 10 seconds of sound. Packed, a prompt is there once for its whole group; padded, once for
each completion. The sides alternate, and the fastest of each counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.families import FAMILIES
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions
from avrt.terminal_tables import print_table

PROMPTS = 2


def main() -> None:
    """Measure all families and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for family in FAMILIES:
        policy = load_policy(StudentOptions(source=family.nano, dtype="float32"))
        prompts = encoded(policy)
        for size in options.groups:
            rows.append({"family": family.name, "G": size, **measured(policy, prompts, size, options.rounds)})
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))
    shown = [
        [r["family"], str(r["G"]), str(r["prompt_tokens"]), f"{r['padded_s'] / r['packed_s']:.1f}",
         f"{r['padded_bytes'] / r['packed_bytes']:.1f}"] for r in rows
    ]  # fmt: skip
    head = ["family", "G", "prompt tokens", "times faster", "times less kept"]
    print_table(Console(), "packed step against padded step", head, shown)


def encoded(policy: Policy) -> EncodedPrompts:
    """Prompts about random clips, their sound behind the frames."""
    generator = torch.Generator().manual_seed(0)
    builder = Preprocessor(policy.inputs, PromptOptions())
    rows = []
    for i in range(PROMPTS):
        frames = torch.randint(0, 256, (8, 3, 224, 196), generator=generator, dtype=torch.uint8)
        clip = Clip(
            frames, tuple(1.25 * t for t in range(8)), 1.25, audio=torch.rand(160_000, generator=generator) - 0.5
        )
        sample = Sample(id=str(i), question="Which thing is seen?", choices=("a ball", "a box"), answer=0,
                        media=("video", "audio"))  # fmt: skip
        rows.append(builder.row(sample, clip))
    return policy.encode(collate(rows))


def measured(policy: Policy, prompts: EncodedPrompts, size: int, rounds: int) -> dict[str, Any]:
    """Seconds and kept bytes of a step, either way."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, 97, (PROMPTS * size,), generator=generator).tolist()
    completions = [torch.randint(20, 600, (n,), generator=generator) for n in lengths]
    found: dict[str, Any] = {"prompt_tokens": sum(prompts.lengths) // PROMPTS}
    ways = ("packed", "padded")
    for way in ways:
        policy.share_prefix = way == "packed"
        found[f"{way}_bytes"] = step(policy, prompts, completions)
    for _ in range(rounds):
        for way in ways:
            policy.share_prefix = way == "packed"
            begun = time.perf_counter()
            step(policy, prompts, completions, counted=False)
            taken = time.perf_counter() - begun
            found[f"{way}_s"] = min(taken, found.get(f"{way}_s", taken))
    policy.share_prefix = True
    return found


def step(policy: Policy, prompts: EncodedPrompts, completions: list[Tensor], *, counted: bool = True) -> int:
    """Score completions and take the gradient; returns bytes kept for it, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if counted and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = policy.logprobs(prompts, completions).logprobs.mean()
    loss.backward()
    policy.zero_grad(set_to_none=True)
    return sum(kept.values())


if __name__ == "__main__":
    main()
