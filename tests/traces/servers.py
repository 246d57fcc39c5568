"""The tests' server, and questions and configurations for it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.sample import Modality, Sample
from avrt.data.shards.members import encode_clip
from avrt.data.shards.writer import ShardWriter

SCRIPT = Path(__file__).with_name("teacher_server.py")


@dataclass
class Running:
    """A running server."""

    url: str
    log: Path
    process: subprocess.Popen

    def records(self, event: str) -> list[dict]:
        """What the server noted."""
        if not self.log.is_file():
            return []
        # The server may be in the middle of a line.
        records = [json.loads(line) for line in self.log.read_text().rpartition("\n")[0].splitlines()]
        return [r for r in records if r["event"] == event]


@contextlib.contextmanager
def serving(folder: Path, *options: object, port: int | None = None, log: bool = True) -> Iterator[Running]:
    """Run the server until the block ends."""
    port = port or free_port()
    path = folder / "server.jsonl"
    logged = ("--log", path) if log else ()
    command = [sys.executable, SCRIPT, "--port", port, *logged, *options]
    process = subprocess.Popen([str(part) for part in command])
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(url, process)
        yield Running(url, path, process)
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until a server lists its models."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_questions(folder: Path, count: int, frames: int = 8) -> Path:
    """Shards of questions with unique texts; the right choice contains `true`, and right letters alternate."""
    picture = torch.arange(28 * 28 * 3, dtype=torch.int64).reshape(3, 28, 28).remainder(255).to(torch.uint8)
    sound = torch.from_numpy(np.sin(np.arange(8000) / 20).astype(np.float32) * 0.2)
    times = tuple(i / frames for i in range(frames))
    clip = Clip(frames=picture.expand(frames, -1, -1, -1), timestamps=times, seconds_per_frame=1 / frames, audio=sound)
    clip.info = {"duration": 1.0, "width": 1280, "height": 720}
    members = encode_clip(clip)
    with ShardWriter(folder, asdict(ClipSpec())) as writer:
        for i in range(count):
            choices = [f"option {j} of {i}" for j in range(4)]
            choices[i % 4] = f"the true one of {i}"
            sample = Sample(
                f"q{i:05d}", f"What is number {i}?", tuple(choices), i % 4, (Modality.VIDEO, Modality.AUDIO)
            )
            writer.write(
                sample, {**members, "clip.json": json.dumps({**json.loads(members["clip.json"]), "n": i}).encode()}
            )
    return folder


def write_config(path: Path, url: str | list[str], **changes: dict) -> Path:
    """A configuration whose three roles are at one server; `changes` are merged into the backends' arguments."""
    backend = {"pause": 0.02, "longest_pause": 0.2, "timeout": 1.0, "give_up_after": 3.0, "concurrency": 8}
    endpoints = [url] if isinstance(url, str) else url

    def role(model: str, template: str) -> dict:
        arguments = {"model": model, "endpoints": endpoints, **backend, **changes.get("backend", {})}
        class_path = "avrt.traces.openai_backend.OpenAIBackend"
        return {"backend": {"class_path": class_path, "init_args": arguments}, "template": template}

    config = {name: role(name, f"{name}.txt") for name in ("visual", "audio", "merger")}
    config.update({key: value for key, value in changes.items() if key != "backend"})
    path.write_text(yaml.safe_dump(config))
    return path
