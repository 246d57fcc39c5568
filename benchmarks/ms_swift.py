r"""The same GRPO step by ms-swift: `python benchmarks/ms_swift.py --python SWIFT_ENV/bin/python --groups 4 8`.

ms-swift pins an older transformers, so it runs in an environment of its own:

    python3 -m venv swift && swift/bin/pip install ms-swift==4.6.0 torch==2.13.0 torchvision qwen_omni_utils \\
        soundfile librosa decord msgspec "transformers<5.20"

librosa needs Debian's ffmpeg, and where torchvision is a CUDA build beside a CPU build of torch,
`tests/server/torchvision_schemas.py` has to be imported in that environment as `tests/server/setup.sh` does it.

Both sides get the same weights, the same 10 s clip with sound, the same text, and sample answers of a fixed length
(random weights hardly ever draw the end token). ms-swift reports the time of its whole step; avrt's is the sum of its
phases and of one optimizer step. ms-swift decodes and encodes the clip from mp4 inside the step, as it does in
training; avrt gets it from a shard, and that time is added here. The first ms-swift step is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import torch
from grpo import PHASES, ours
from measuring import make_batch, measure, scaled_student
from rich.console import Console
from rich.table import Table

from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.shards.members import decode_members, encode_clip
from avrt.policy.policy import Policy
from avrt.policy.reference import Reference
from avrt.policy.saving import export_policy

_STEP = re.compile(r"'step_time': '?([0-9.]+)")


def write_clip(clip: Clip, path: Path) -> None:
    """The benchmark's clip as mp4: 8 frames over 10 s, with sound."""
    assert clip.frames is not None
    assert clip.audio is not None
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(4, 5), options={"crf": "1"})
        video.height, video.width = clip.frames.shape[-2:]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for frame in clip.frames:
            for packet in video.encode(av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")):
                container.mux(packet)
        for start in range(0, len(clip.audio), 1024):
            sound = av.AudioFrame.from_ndarray(
                clip.audio[None, start : start + 1024].numpy(), format="fltp", layout="mono"
            )
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            for packet in audio.encode(sound):
                container.mux(packet)
        for stream in (video, audio):
            for packet in stream.encode(None):
                container.mux(packet)


def swift_seconds(
    python: str, work: Path, question: str, pixels: int, size: int, length: int, steps: int
) -> list[float]:
    """Seconds of each step that ms-swift reports, the first left out."""
    row = {"messages": [{"role": "user", "content": f"<video>{question}"}], "videos": [str(work / "clip.mp4")]}
    (work / "data.jsonl").write_text((json.dumps({**row, "solution": "A"}) + "\n") * 16)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
        "FPS": "0.8", "FPS_MIN_FRAMES": "8", "FPS_MAX_FRAMES": "8", "VIDEO_MAX_PIXELS": str(pixels),
        "USE_AUDIO_IN_VIDEO": "True", "ENABLE_AUDIO_OUTPUT": "0",
    }  # fmt: skip
    options = {
        "rlhf_type": "grpo", "model": work / "model", "model_type": "qwen2_5_omni", "template": "qwen2_5_omni",
        "dataset": work / "data.jsonl", "load_from_cache_file": "false", "tuner_type": "full",
        "torch_dtype": "float32", "num_generations": size, "per_device_train_batch_size": size,
        "gradient_accumulation_steps": 1, "max_completion_length": length, "max_steps": steps + 1, "beta": 0.01,
        "reward_funcs": "format", "temperature": 1.0, "learning_rate": "1e-6", "output_dir": work / "out",
        "logging_steps": 1, "save_strategy": "no", "freeze_vit": "true", "freeze_aligner": "true",
        "report_to": "none", "use_cpu": "true", "gradient_checkpointing": "false", "max_length": 8192,
    }  # fmt: skip
    command = [str(Path(python).with_name("swift")), "rlhf"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    found = [float(seconds) for seconds in _STEP.findall(done.stdout + done.stderr)]
    if done.returncode or len(found) < 2:
        raise SystemExit(f"ms-swift failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return found[1:]


def our_seconds(student: Policy, prompt_tokens: int, size: int, length: int) -> tuple[float, int]:
    """Seconds of avrt's step, with reading the clip from a shard and the optimizer, and the prompt's length."""
    batch = make_batch(student, prompt_tokens)
    sample, clip = batch.samples[0], batch.clips[0]
    raw = {"json": sample.to_json(), **encode_clip(clip)}
    builder = Preprocessor(student.inputs, PromptOptions(audio_in_video=True))
    begun = time.perf_counter()
    builder.row(*decode_members(raw))
    total = time.perf_counter() - begun
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-6)
    phases = ours(student, Reference(student), batch, size, length)
    total += sum(measure(phases[phase]).seconds for phase in PHASES)
    total += measure(lambda: optimizer.step() and None).seconds
    student.zero_grad()
    return total, len(batch.prompt_ids[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="the Python of ms-swift's environment")
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--prompts", type=int, nargs="+", default=[2000])
    parser.add_argument("--answer", type=int, default=165)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = scaled_student(options.scale)
    student.eval()
    table = Table(title=f"one GRPO step, ms-swift / avrt (1 thread, scale 1/{options.scale})")
    for column in ("prompt", "G", "ms-swift s", "avrt s", "times faster"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        export_policy(student, work / "model", full_layout=True)
        torch.save({}, work / "model" / "spk_dict.pt")  # the talker's voices, which ms-swift looks for and never uses
        for prompt_tokens in options.prompts:
            batch = make_batch(student, prompt_tokens)
            clip, question = batch.clips[0], batch.samples[0].question
            write_clip(clip, work / "clip.mp4")
            pixels = clip.frames.shape[-1] * clip.frames.shape[-2]
            for size in options.groups:
                first, tokens = our_seconds(student, prompt_tokens, size, options.answer)
                theirs = min(swift_seconds(options.python, work, question, pixels, size, options.answer, options.steps))
                own = min(first, our_seconds(student, prompt_tokens, size, options.answer)[0])
                print(f"prompt {tokens}, G {size}: ms-swift {theirs:.1f} s, avrt {own:.1f} s", flush=True)
                table.add_row(str(tokens), str(size), f"{theirs:.1f}", f"{own:.1f}", f"{theirs / own:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
