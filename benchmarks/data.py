"""Samples per second and core from shards, compared with the usual route and with torchcodec on the same clips.

    python benchmarks/data.py --clips FOLDER_OF_MP4 [--rounds 5] [--workers 0 1 2]

The other routes need further packages (`pip install qwen-omni-utils librosa torchcodec`, and FFmpeg's libraries for
torchcodec); routes whose packages are missing are left out. Each route uses one thread. The routes take turns clip by
clip, so that other load on the machine slows all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperFeatureExtractor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.loading.order import SampleOrder, Source
from avrt.data.loading.plans import EpochPlan
from avrt.data.loading.stream import BatchStream
from avrt.data.media.clip import SAMPLE_RATE, Clip, ClipSpec
from avrt.data.media.codecs import from_flac, from_jpeg
from avrt.data.media.decode import decode_video
from avrt.data.sample import Modality, Sample
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.members import decode_clip, decode_members
from avrt.data.shards.reader import ShardSet
from avrt.models.qwen2_5_omni.media_inputs import QwenOmniInputs
from avrt.models.qwen2_5_omni.nano import nano_config, nano_processor
from avrt.models.qwen2_5_omni.positions import SpecialTokens

SPEC = ClipSpec()
FRAMES = range(SPEC.frames)
T = TypeVar("T")
USUAL = "mp4 by qwen_omni_utils and the stock processor"
QUESTION = "What can be seen and heard in the clip?"
CHOICES = ("a dog that barks", "a car that passes", "rain on a roof", "a person who talks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of mp4 files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    processor = nano_processor()
    # as the model was released: the nano student's pads to 30 s only
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    inputs = QwenOmniInputs(processor, SpecialTokens.of(nano_config(processor)))
    builder = Preprocessor(inputs, PromptOptions())
    clips = sorted(options.clips.glob("*.mp4"))
    with tempfile.TemporaryDirectory() as scratch:
        shards = shard(clips, Path(scratch) / "shards", copies=1)
        routes: dict[str, Callable[[int], object]] = {
            "shard, as a worker makes it": lambda i: builder.row(*decode_members(shards.read(i))),
            "shard, pixels scaled too": lambda i: builder.row(*decode_members(shards.read(i))).pixel_values,
            "mp4 by our own decoder": lambda i: builder.row(sample(i), decode_video(clips[i], SPEC)).pixel_values,
        }
        if installed("qwen_omni_utils"):
            routes[USUAL] = lambda i: usual_route(clips[i], processor)
        if installed("torchcodec"):
            routes["mp4 by torchcodec, our features"] = lambda i: (
                builder.row(sample(i), torchcodec_clip(clips[i])).pixel_values
            )
        if (usual := routes.get(USUAL)) is not None:
            check_equal(usual(0), builder.row(*decode_members(shards.read(0))))
        report_routes(compare(routes, len(clips), options.rounds), len(clips))
        report_parts(parts(shards, inputs, options.rounds))
        report_sizes(shards, clips)
        many = shard(clips, Path(scratch) / "many", copies=16)
        report_scaling(many, builder, options.workers)


def shard(clips: list[Path], folder: Path, copies: int) -> ShardSet:
    """Shards of the clips, each with a question; `copies` repeats all of them."""
    items = [
        SourceItem(sample(i, copy), {Modality.VIDEO: path}) for i, path in enumerate(clips) for copy in range(copies)
    ]
    write_shards(items, folder, SPEC)
    return ShardSet(folder)


def sample(number: int, copy: int = 0) -> Sample:
    """A question about a clip."""
    return Sample(f"{number}-{copy}", QUESTION, CHOICES, 0, (Modality.VIDEO, Modality.AUDIO))


def installed(package: str) -> bool:
    """Whether a route's package is installed; prints a line if not."""
    there = importlib.util.find_spec(package) is not None
    if not there:
        print(f"{package} is not installed: its route is left out")
    return there


def usual_route(path: Path, processor: Any) -> Any:
    """The route of the model's documentation: its utilities read the file, its processor makes the inputs."""
    from qwen_omni_utils import process_mm_info  # type: ignore[import-not-found]

    budget = {"min_pixels": SPEC.budget.min_pixels, "max_pixels": SPEC.budget.max_pixels, "nframes": SPEC.frames}
    text = f"{QUESTION}\n" + "\n".join(CHOICES)
    content = [{"type": "video", "video": str(path), **budget}, {"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        audios, images, videos = process_mm_info(chat, use_audio_in_video=True)
        content.insert(1, {"type": "audio", "audio": str(path)})
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return processor(text=prompt, audio=audios, images=images, videos=videos, return_tensors="pt", padding=True)


def check_equal(usual: Any, ours: OmniBatch) -> None:
    """Print how far the inputs of both routes differ: shapes and sound should be equal, pictures nearly so."""
    assert ours.mel is not None
    assert ours.pixel_values is not None
    assert ours.grids is not None
    length = int(usual["feature_attention_mask"].sum())
    frames = min(length, ours.mel.shape[-1])
    sound = (usual["input_features"][0, :, :frames] - ours.mel[0, :, :frames]).abs().mean()
    same = torch.equal(usual["video_grid_thw"], ours.grids)
    pictures = (usual["pixel_values_videos"] - ours.pixel_values).abs().mean() if same else float("nan")
    print(
        f"usual route and ours: grid {usual['video_grid_thw'].tolist()} and {ours.grids.tolist()}, mel frames {length}"
        f" and {ours.mel.shape[-1]}; mean difference: log-mel {sound:.4f}, pixels {pictures:.3f} (in standard"
        " deviations; the usual route takes frames from the first to the last, ours begin each eighth of the clip)"
    )


def torchcodec_clip(path: Path) -> Clip:
    """The same frames and sound as from our decoder, read by torchcodec."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder  # type: ignore[import-not-found]

    video = VideoDecoder(str(path), num_ffmpeg_threads=1)
    start, duration = video.metadata.begin_stream_seconds, video.metadata.duration_seconds
    times = [start + i * duration / SPEC.frames for i in range(SPEC.frames)]
    played = video.get_frames_played_at(times)
    size = SPEC.budget.size(*played.data.shape[-2:])
    frames = torch.nn.functional.interpolate(played.data.float(), size, mode="bicubic", antialias=True)
    sound = AudioDecoder(str(path), sample_rate=SAMPLE_RATE).get_samples_played_in_range(0, SPEC.audio_seconds).data
    return Clip(
        frames=frames.round().clamp(0, 255).to(torch.uint8),
        timestamps=tuple(played.pts_seconds.tolist()),
        seconds_per_frame=duration / SPEC.frames,
        audio=sound.mean(0),
    )


def compare(routes: dict[str, Callable[[int], object]], clips: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per clip of each route; the routes take turns, and the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(rounds + 1):
        for index in range(clips):
            for name, route in routes.items():
                begun = time.perf_counter()
                route(index)
                if turn:
                    seconds[name].append(time.perf_counter() - begun)
    return seconds


def parts(shards: ShardSet, inputs: QwenOmniInputs, rounds: int) -> dict[str, float]:
    """Median seconds per sample of each part of the way from shard to model input."""
    builder = Preprocessor(inputs, PromptOptions())
    timed: dict[str, list[float]] = {}

    def take(name: str, work: Callable[..., T], *arguments: object) -> T:
        """Run and time one part."""
        begun = time.perf_counter()
        result = work(*arguments)
        timed.setdefault(name, []).append(time.perf_counter() - begun)
        return result

    for _ in range(rounds):
        for index in range(len(shards)):
            raw = take("read from the shard", shards.read, index)
            record = take("record", Sample.from_json, raw["json"])
            take("JPEG", lambda frames: [from_jpeg(frame) for frame in frames], [raw[f"{i}.jpg"] for i in FRAMES])
            take("FLAC", from_flac, raw["flac"])
            clip = decode_clip(raw, record.media)
            take("patches", inputs.patches, clip.frames)
            take("log-mel", inputs.log_mel, clip.audio)
            row = take("whole row", builder.row, record, clip)
            take("pixels scaled (on the device in training)", getattr, row, "pixel_values")
    medians = {name: statistics.median(values) for name, values in timed.items()}
    medians["prompt, positions"] = max(0.0, medians.pop("whole row") - medians["patches"] - medians["log-mel"])
    return medians


def report_routes(seconds: dict[str, list[float]], clips: int) -> None:
    table = Table(title=f"one core, {clips} clips, 8 frames and 10 s of sound each")
    for column in ("route", "ms per sample: median", "least", "samples/s", "times the usual route"):
        table.add_column(column, justify="left" if column == "route" else "right")
    usual = statistics.median(seconds[USUAL]) if USUAL in seconds else None
    for name, values in seconds.items():
        median = statistics.median(values)
        factor = "" if usual is None else f"{usual / median:.1f}"
        table.add_row(name, f"{median * 1e3:.1f}", f"{min(values) * 1e3:.1f}", f"{1 / median:.1f}", factor)
    Console().print(table)


def report_parts(medians: dict[str, float]) -> None:
    table = Table(title="where the time from the shard goes, ms per sample")
    table.add_column("part")
    table.add_column("median", justify="right")
    for name, value in sorted(medians.items(), key=lambda pair: -pair[1]):
        table.add_row(name, f"{value * 1e3:.2f}")
    Console().print(table)


def report_sizes(shards: ShardSet, clips: list[Path]) -> None:
    stored = sum(entry["bytes"] for entry in shards.manifest.shards) / len(clips)
    source = sum(path.stat().st_size for path in clips) / len(clips)
    print(f"KB per clip: {stored / 1e3:.0f} in the shard, {source / 1e3:.0f} as mp4 ({stored / source:.2f} times)")


def report_scaling(shards: ShardSet, builder: Preprocessor, counts: list[int]) -> None:
    plan = EpochPlan(SampleOrder((Source((len(shards),)),)), batch_size=8)
    for workers in counts:
        stream = BatchStream(shards, plan, 0, builder, workers)
        batches = iter(stream)
        next(batches)
        begun = time.perf_counter()
        samples = sum(len(batch) for batch in batches)
        print(f"{workers} workers: {samples / (time.perf_counter() - begun):.0f} samples/s in batches of 8")


if __name__ == "__main__":
    main()
