"""What the benchmarks share: a student with the real one's proportions, a question about a clip, a measurement."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.sample import Modality, Sample
from avrt.models.qwen2_5_omni.family import QwenOmni
from avrt.models.qwen2_5_omni.nano import nano_config, nano_processor
from avrt.models.qwen2_5_omni.released_sizes import released_config
from avrt.models.qwen2_5_omni.stock import media_arguments
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions


@dataclass
class Result:
    """Seconds and peak memory growth in MB of one phase on one side."""

    seconds: float
    megabytes: float


def scaled_student(scale: int, vocabulary: int | None = None) -> Policy:
    """A student of random weights with Qwen2.5-Omni-3B's proportions: widths and vocabulary / scale, depths / 6.

    Args:
        scale: What widths are divided by.
        vocabulary: Its size, if not divided too.
    """
    processor = nano_processor()
    config = nano_config(processor)
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    text.hidden_size, text.intermediate_size = 2048 // scale, 11008 // scale
    text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = 6, 8, 1
    text.layer_types = ["full_attention"] * 6
    text.vocab_size = vocabulary or 151_936 // scale
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
    return Policy(QwenOmni(), thinker, processor, StudentOptions(source="scaled", dtype="float32"))


def full_size_student(
    size: str, device: torch.device, *, tiny: bool = False, fused: bool | Literal["auto"] = "auto"
) -> Policy:
    """A student of random weights in bfloat16 with a released model's dimensions, made on a device.

    Args:
        size: `3B` or `7B`.
        device: Where.
        tiny: The nano student in float32 instead.
        fused: `StudentOptions.fused_layers`.
    """
    if tiny:
        return load_policy(StudentOptions(source="nano", dtype="float32")).to(device)
    processor = nano_processor()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # weights; buffers are float32 all the same, as when loaded from files
    try:
        with device:
            thinker = Qwen2_5OmniThinkerForConditionalGeneration(released_config(size, processor))
    finally:
        torch.set_default_dtype(before)
    thinker.generation_config.eos_token_id = None
    thinker.generation_config.pad_token_id = 0
    return Policy(QwenOmni(), thinker, processor, StudentOptions(source=size, fused_layers=fused)).to(device)


def plain_side(student: Policy, batch: OmniBatch, size: int, length: int) -> dict[str, Callable[[], None]]:
    """Plain Hugging Face's phases of a GRPO step on a batch's first question, in the usual way.

    `generate` with `num_return_sequences`, then full forward passes over copies of the prompt, towers included, with
    logits over every position.
    """
    model, device = student.model, batch.valid.device
    media = {n: v for n, v in media_arguments(model, student.inputs.processor, batch, 0).items() if v is not None}
    prompt = batch.prompt_ids[0][None]
    answers = torch.randint(300, 800, (size, length)).to(device)
    ids = torch.cat([prompt.expand(size, -1), answers], dim=1)
    copies = {
        name: value.repeat(size, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) else value
        for name, value in media.items()
    }

    def generate() -> None:
        with torch.no_grad():
            model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), **media, num_return_sequences=size,
                do_sample=True, max_new_tokens=length, min_new_tokens=length,
            )  # fmt: skip

    def logprobs() -> Tensor:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **copies).logits
        kept = logits[:, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
        return kept.gather(-1, answers[..., None])[..., 0].flatten()

    def score() -> None:
        with torch.no_grad():
            logprobs()

    def update() -> None:
        (-logprobs().mean()).backward()

    return {"generate": generate, "score": score, "update": update}


def make_batch(student: Policy, prompt_tokens: int, trace: str | None = None) -> OmniBatch:
    """One question about a 10 s clip with sound, of about `prompt_tokens` tokens: more than half picture, 250 sound."""
    columns = max(2, round((prompt_tokens * 0.6 / 4) ** 0.5))
    frames = torch.randint(0, 255, (8, 3, 28 * columns, 28 * columns), dtype=torch.uint8)
    clip = Clip(frames, tuple(1.25 * i for i in range(8)), 1.25, audio=torch.randn(10 * SAMPLE_RATE) * 0.1)
    builder = Preprocessor(student.inputs, PromptOptions(audio_in_video=True), targets=trace is not None)
    media = (Modality.VIDEO, Modality.AUDIO)

    def build(words: int) -> OmniBatch:
        return builder.row(Sample("q", "see " * words + "?", ("a", "b"), 0, media, trace=trace), clip)

    return build(max(1, prompt_tokens - len(build(1).prompt_ids[0])))


def measure(phase: Callable[[], None]) -> Result:
    """Time one phase and the growth of peak memory that it causes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size
    before = _status("VmRSS")
    begun = time.perf_counter()
    phase()
    return Result(time.perf_counter() - begun, (_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    """A size in kB from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
