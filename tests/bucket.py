"""A real S3 server on loopback (rclone's), and a proxy before it that cuts connections in the middle of transfers."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

KEY, SECRET, BUCKET = "AVRTKEY", "avrt-secret-of-the-tests", "bucket"
PIECE = 16_384
RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def s3_server(root: Path) -> Iterator[int]:
    """Serve the folders of `root` as buckets; yields the port.

    It keeps what it has seen of a folder, so change files by S3 once it has been asked for them. (With a
    `--dir-cache-time` of 0 it reads all folders again and again: seconds for a file of a few bytes.)
    """
    assert RCLONE is not None
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [RCLONE, "serve", "s3", str(root), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--config", os.devnull, "--vfs-cache-mode", "off", "--quiet"]
    server = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@dataclass
class Cuts:
    """How often a proxy cuts, and what it has done.

    Attributes:
        share: Share of the pieces of 16 KB of answers after which the connection is cut.
        cuts: How often it did.
        sent: Bytes of answers.
        received: Bytes of requests.
        most: Bytes of requests after which it takes no more: the store is gone.
    """

    share: float = 0.0
    cuts: int = 0
    sent: int = 0
    received: int = 0
    most: int | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@contextmanager
def cutting(port: int, cuts: Cuts) -> Iterator[int]:
    """A proxy before a server; yields its port."""

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await reader.read(PIECE):
                if not answers:
                    cuts.received += len(data)
                    if cuts.most is not None and cuts.received > cuts.most:
                        writer.transport.abort()
                        return
                writer.write(data)
                await writer.drain()
                if answers:
                    cuts.sent += len(data)
                    if len(data) > 1024 and cuts.rng.random() < cuts.share:  # in the middle of a file
                        cuts.cuts += 1
                        writer.transport.abort()
                        return
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(one_way(reader, before, answers=False), one_way(behind, writer, answers=True))

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def environment(port: int) -> dict[str, str]:
    """The environment in which `s3://` is this server."""
    return {
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
