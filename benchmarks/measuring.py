"""What the benchmarks share: a student with the real one's proportions, a question about a clip, a measurement."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.sample import Modality, Sample
from avrt.models.qwen2_5_omni.family import QwenOmni
from avrt.models.qwen2_5_omni.nano import nano_config, nano_processor
from avrt.policy.policy import Policy
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
