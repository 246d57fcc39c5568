"""Qwen2.5-Omni at full size with random weights on one GPU, phase by phase: seconds, memory, waiting; JSON and a page.

    python benchmarks/gpu.py --out gpu-check            # about 4 minutes on an H200
    python benchmarks/gpu.py --tiny --out gpu-check     # the nano student on the CPU, to try the script

Each phase is measured by itself on 8 questions of about 2,000 tokens; one that fails is noted and the others go on.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import full_size_student, make_batch, plain_side
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.packing import pack_groups, packed_attention
from avrt.models.transformers_internals import use_attention
from avrt.policy.policy import Policy
from avrt.rollout.sampling import SamplingOptions

ANSWER = 165
QUESTIONS = 8


class Check:
    """Runs phases and keeps their figures.

    Args:
        out: Folder of `figures.json` and `page.md`.
        tiny: Use the nano student on the CPU.
        size: `3B` or `7B`.
    """

    def __init__(self, out: Path, *, tiny: bool, size: str) -> None:
        self.out, self.tiny, self.size = out, tiny, size
        self.device = torch.device("cpu" if tiny else "cuda")
        self.begun = time.perf_counter()
        self.figures: dict[str, Any] = {}
        self.policy: Policy
        self.batch: OmniBatch
        self.prompts: EncodedPrompts
        out.mkdir(parents=True, exist_ok=True)

    def note(self, name: str, value: Any) -> None:
        """Keep a figure, print it and write all of them."""
        self.figures[name] = value
        print(f"[{time.perf_counter() - self.begun:6.1f} s] {name}: {value}", flush=True)
        (self.out / "figures.json").write_text(json.dumps(self.figures, indent=1))
        rows = [f"| {key} | {value} |" for key, value in self.figures.items()]
        (self.out / "page.md").write_text("\n".join(["| what | figure |", "| --- | --- |", *rows]) + "\n")

    def phase(self, run: Callable[[Check], None]) -> None:
        """Run one phase."""
        try:
            run(self)
        except Exception as error:  # the next phases are worth having all the same
            traceback.print_exc()
            self.note(f"FAILED: {run.__name__}", repr(error)[:300])
        gc.collect()
        if not self.tiny:
            torch.cuda.empty_cache()

    def milliseconds(self, work: Callable[[], Any], times: int = 1) -> float:
        """Of one call, the device's work included."""
        self.wait()
        begun = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return round((time.perf_counter() - begun) / times * 1e3, 2)

    def wait(self) -> None:
        """Until the device has done everything."""
        if not self.tiny:
            torch.cuda.synchronize()

    def peak(self, work: Callable[[], Any]) -> float:
        """Growth of the device's memory in GB while something runs."""
        if self.tiny:
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        self.wait()
        return round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)

    def waits(self, work: Callable[[], Any]) -> int:
        """How often the host waited for the device."""
        if self.tiny:
            return 0
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)


def machine(check: Check) -> None:
    """What the card can do at best."""
    check.note("torch", torch.__version__)
    if check.tiny:
        return
    properties = torch.cuda.get_device_properties(0)
    check.note("card", f"{properties.name}, {properties.total_memory / 1e9:.1f} GB")
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    square @ square
    check.note("matmul, TFLOP/s", round(2 * 8192**3 / check.milliseconds(lambda: square @ square, 10) / 1e9))
    one, host = torch.empty(2**30, dtype=torch.uint8, device="cuda"), torch.empty(2**28, dtype=torch.uint8)
    other, pinned = torch.empty_like(one), host.pin_memory()
    check.note("memory, TB/s", round(2 * 2**30 / check.milliseconds(lambda: other.copy_(one), 10) / 1e9, 2))
    for name, source in (("pageable", host), ("pinned", pinned)):
        ms = check.milliseconds(lambda source=source: one[: 2**28].copy_(source, non_blocking=True), 3)
        check.note(f"host to device, {name}, GB/s", round(2**28 / ms / 1e6, 1))


def attention(check: Check) -> None:
    """Forward and backward of one layer's attention over pairs of lengths that are new each time."""
    heads, groups, width = (4, 2, 32) if check.tiny else (16, 2, 128)
    generator = torch.Generator().manual_seed(0)
    lengths = [
        (int(torch.randint(1800, 2200, (1,), generator=generator)), torch.randint(100, 250, (4,), generator=generator))
        for _ in range(5)
    ]

    def usual(query: Tensor, key: Tensor, value: Tensor, prompt: int, completions: list[int]) -> Tensor:
        """PyTorch's dispatcher chooses the kernel; the whole row as one causal sequence."""
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, is_causal=True, enable_gqa=True)

    def ours(query: Tensor, key: Tensor, value: Tensor, prompt: int, completions: list[int]) -> Tensor:
        return packed_attention(query, key, value, pack_groups([prompt], [completions], query.device), width**-0.5)

    for name, attend in (("dispatcher's choice", usual), ("ours", ours)):
        first, again = [], []
        for prompt, completions in lengths:
            total = prompt + int(completions.sum())
            dtype = torch.float32 if check.tiny else torch.bfloat16
            query, key, value = (
                torch.randn(1, n, total, width, device=check.device, dtype=dtype, requires_grad=True)
                for n in (heads, groups, groups)
            )

            inputs = (query, key, value, prompt, completions.tolist())

            def work(attend: Callable[..., Tensor] = attend, inputs: tuple[Any, ...] = inputs) -> None:
                attend(*inputs).sum().backward()

            first.append(check.milliseconds(work))
            again.append(check.milliseconds(work, 3))
        check.note(f"attention, {name}: new lengths, ms", first)
        check.note(f"attention, {name}: known lengths, ms", again)


def build(check: Check) -> None:
    """The student and its questions."""
    check.policy = full_size_student(check.size, check.device, tiny=check.tiny)
    tokens = [200 if check.tiny else 1900 + 29 * i for i in range(QUESTIONS)]
    check.batch = collate([make_batch(check.policy, n) for n in tokens]).to(check.device)
    check.note("prompts, tokens", [len(ids) for ids in check.batch.prompt_ids])
    if not check.tiny:
        check.note("weights, GB", round(torch.cuda.memory_allocated() / 1e9, 2))


def encode(check: Check) -> None:
    """The towers over 8 clips, and against the stock way of a call per window."""

    def run() -> None:
        check.prompts = check.policy.encode(check.batch)

    check.note("encode 8 clips, ms", [check.milliseconds(run) for _ in range(3)])
    check.note("encode 8 clips, peak GB, waits", [check.peak(run), check.waits(run)])
    towers = check.policy.family.towers(check.policy.model)
    names = [tower.config._attn_implementation for tower in towers]
    for tower in towers:
        use_attention(tower.config, "sdpa")
    check.note("encode 8 clips, stock towers, ms", [check.milliseconds(run) for _ in range(2)])
    for tower, name in zip(towers, names, strict=True):
        use_attention(tower.config, name)
    run()


def decode(check: Check) -> None:
    """Milliseconds per token and way of decoding."""

    def generate(length: int, size: int, **options: Any) -> None:
        sampling = SamplingOptions(max_new_tokens=length, **options)
        seeds = list(range(QUESTIONS * size))
        check.policy.generate(check.prompts, sampling, seeds=seeds, group_size=size, ignore_eos=True)

    for size in (4, 16):
        for way in ("static", "compiled", "dynamic"):
            if way != "static" and size == 16:
                continue
            long = (12 if check.tiny else 144) // (3 if way == "dynamic" else 1)
            first = check.milliseconds(lambda: generate(long, size, decoding=way))  # noqa: B023
            whole = check.milliseconds(lambda: generate(long, size, decoding=way))  # noqa: B023
            peak = check.peak(lambda: generate(long, size, decoding=way))  # noqa: B023
            part = min(check.milliseconds(lambda: generate(1, size, decoding="dynamic")) for _ in range(2))  # noqa: B023
            check.note(
                f"decode {way}, G = {size}: first call s, ms per token, peak GB",
                [round(first / 1e3, 1), round((whole - part) / (long - 1), 2), peak],
            )
            waits = check.waits(lambda: generate(64, size, decoding=way))  # noqa: B023
            check.note(f"decode {way}, G = {size}: waits per token", round(waits / 64, 2))
            check.policy._static.clear()
            gc.collect()
    check.note("prefill, ms", check.milliseconds(lambda: generate(1, 4, decoding="dynamic")))


def update(check: Check) -> None:
    """Scoring, and the update of groups of 4 with answers of 165 tokens, by micro-batch."""
    policy, model = check.policy, check.policy.decoder.language_model
    generator = torch.Generator().manual_seed(1)
    trained = [p for p in policy.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) for p in trained]
    for checkpointing in (True, False):
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            model.activation_checkpointing_disable()
        policy.train()
        for micro_batch in (1, 4, 8):
            prompts = check.prompts.rows(range(micro_batch))

            def run(*, new: bool, micro_batch=micro_batch, prompts=prompts) -> None:  # noqa: ANN001
                count = 4 * micro_batch
                lengths = torch.randint(115, 215, (count,), generator=generator).tolist() if new else [ANSWER] * count
                tokens = [torch.randint(300, 800, (n,)).to(check.device) for n in lengths]
                (-policy.logprobs(prompts, tokens).logprobs.mean()).backward()

            try:
                run(new=False)
                name = f"update, micro-batch {micro_batch}, checkpointing {'on' if checkpointing else 'off'}"
                new = [check.milliseconds(lambda: run(new=True)) for _ in range(3)]
                known = [check.milliseconds(lambda: run(new=False)) for _ in range(2)]
                check.note(
                    f"{name}: new lengths ms, known ms, peak GB", [new, known, check.peak(lambda: run(new=False))]
                )
                check.note(f"{name}: waits", check.waits(lambda: run(new=True)) - 4 * micro_batch)
            except torch.OutOfMemoryError:
                check.note(f"update, micro-batch {micro_batch}, checkpointing {checkpointing}", "out of memory")
    policy.eval()
    with torch.no_grad():
        for micro_batch in (1, 8):
            tokens = [torch.zeros(ANSWER, dtype=torch.long, device=check.device)] * (4 * micro_batch)
            prompts = check.prompts.rows(range(micro_batch))
            times = [check.milliseconds(lambda: policy.logprobs(prompts, tokens)) for _ in range(3)]  # noqa: B023
            check.note(f"score, {micro_batch} groups, ms", times)
    for hook in hooks:
        hook.remove()


def profile(check: Check) -> None:
    """Which kernels encoding, a decoded token, and an update of one group spend the device's time in."""

    def decode_some() -> None:
        sampling = SamplingOptions(max_new_tokens=24)
        check.policy.generate(check.prompts, sampling, seeds=list(range(4 * QUESTIONS)), group_size=4, ignore_eos=True)

    def update_one() -> None:
        tokens = [torch.full((ANSWER,), 300, device=check.device) for _ in range(4)]
        check.policy.logprobs(check.prompts.rows([0]), tokens).logprobs.mean().backward()
        check.policy.zero_grad(set_to_none=True)

    def encode() -> None:
        check.policy.encode(check.batch)

    parts = (("encoding 8 clips", encode), ("decoding 24 tokens", decode_some), ("update of one group", update_one))
    for name, work in parts:
        work()
        with torch.profiler.profile() as seen:
            work()
            check.wait()
        table = seen.key_averages().table(sort_by="self_cpu_time_total" if check.tiny else "self_cuda_time_total")
        (check.out / f"profile {name}.txt".replace(" ", "_")).write_text(table)
        if not check.tiny:
            events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
            kernels = [f"{e.key[:60]} x {e.count}: {e.self_device_time_total / 1e3:.2f} ms" for e in events[:12]]
            check.note(f"profile of {name}", kernels)


def plain(check: Check) -> None:
    """Plain Hugging Face on the same card: one question, G = 4: generate, score, update."""
    length = 8 if check.tiny else ANSWER
    parts = (*check.policy.family.towers(check.policy.model), check.policy.decoder.language_model)
    names = [part.config._attn_implementation for part in parts]
    for part in parts:
        use_attention(part.config, "sdpa")
    for name, work in plain_side(check.policy, check.batch, 4, length).items():
        work()
        check.note(f"plain Hugging Face, one question, G = 4: {name}, ms", check.milliseconds(work))
        check.policy.zero_grad(set_to_none=True)
    for part, name in zip(parts, names, strict=True):
        use_attention(part.config, name)


PHASES = (machine, attention, build, encode, update, decode, profile, plain)


def main() -> None:
    """Run the phases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--size", choices=["3B", "7B"], default="3B")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", default=[phase.__name__ for phase in PHASES])
    options = parser.parse_args()
    check = Check(options.out, tiny=options.tiny, size=options.size)
    for phase in PHASES:
        if phase.__name__ in options.only:
            check.phase(phase)


if __name__ == "__main__":
    main()
