"""The time of teacher calls compared with the ideal: `python benchmarks/traces.py`.

A server on loopback answers every request after 50 ms. Two teachers get 1,000 questions, 64 calls at a time in all. The
ideal time from the first request to the last reply is calls / 64 x 50 ms. Memory is the peak of the largest process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from avrt.data.sample import Modality, Sample
from avrt.data.shards.writer import ShardWriter

REPLY = "Visual Description: a thing.\nReasoning: (A) no. (B) yes.\nAnswer: (B) it"
PIXEL = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e1d1a1c1c"
    "20242e2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080001000101011100ffc4001f000001050101010101010000"
    "0000000000000102030405060708090a0bffc400b5100002010303020403050504040000017d01020300041105122131410613516107227114328191"
    "a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a73"
    "7475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9da"
    "e1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffda0008010100003f00fbfeffd9"
)


async def serve(port: int, delay: float) -> None:
    """Serve with as little work as possible, and print counts and times at SIGTERM."""
    message = {"role": "assistant", "content": REPLY}
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
    models = json.dumps({"data": [{"id": "m", "object": "model"}], "object": "list"}).encode()
    counts = {"calls": 0, "busy": 0, "most": 0, "first": 0.0, "last": 0.0}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")), 0
                )
                await reader.readexactly(size)
                answer = models
                if size:
                    answer = body
                    counts["first"] = counts["first"] or time.time()
                    counts["busy"] += 1
                    counts["most"] = max(counts["most"], counts["busy"])
                    await asyncio.sleep(delay)
                    counts["busy"] -= 1
                    counts["calls"] += 1
                    counts["last"] = time.time()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
                )
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=1 << 24)
    await done.wait()
    server.close()
    print(json.dumps(counts))


def measure(folder: Path, questions: int, delay: float, concurrency: int, workers: int) -> dict[str, float]:
    """Run `avrt traces run` once and return the measurements of the server and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(port), "--delay", str(delay)], stdout=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}/v1"
    while True:
        try:
            urllib.request.urlopen(f"{url}/models").read()
            break
        except OSError:
            time.sleep(0.1)
    with ShardWriter(folder / "shards", {}) as writer:
        for i in range(questions):
            sample = Sample(f"q{i}", f"What is number {i}?", ("this", "it"), 1, (Modality.VIDEO,))
            writer.write(sample, {"0.jpg": PIXEL, "clip.json": json.dumps({"n": i}).encode()})
    backend = {
        "class_path": "avrt.traces.openai_backend.OpenAIBackend",
        "init_args": {"model": "m", "endpoints": [url], "concurrency": concurrency // 2},
    }
    teacher = {"backend": backend, "template": "visual.txt", "name": "other", "senses": ["vision"]}
    config = {
        "visual": {"backend": backend, "template": "visual.txt"},
        "further_teachers": [teacher],
        "merger": {"backend": backend, "template": "merger_any.txt"},
        "stages": ["teach"],
        "workers": workers,
    }
    path = folder / "traces.yaml"
    path.write_text(json.dumps(config))
    program = (
        "import sys; from avrt.commands.traces import main; main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    begun = time.perf_counter()
    arguments = ["run", "--config", str(path), "--data", str(folder / "shards"), "--out", str(folder / "out")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        server.kill()
        sys.exit(done.stderr)
    whole = time.perf_counter() - begun
    server.terminate()
    counts = json.loads(server.communicate()[0])
    ideal = counts["calls"] / concurrency * delay
    return {
        "workers": workers,
        "calls": counts["calls"],
        "most at once": counts["most"],
        "ideal s": ideal,
        "s": counts["last"] - counts["first"],
        "ratio": (counts["last"] - counts["first"]) / ideal,
        "with start-up s": whole,
        "peak MB": int(done.stdout.split()[-1]) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.delay))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), options.questions, options.delay, options.concurrency, workers)
        print("  ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
