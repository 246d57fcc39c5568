"""A file server on loopback that cuts transfers, fails and lies, as remote storage does on a bad day."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

PIECE = 16_384


@dataclass
class Weather:
    """How the server behaves, and what it has done.

    Attributes:
        cut: Share of the pieces of 16 KB after which the connection is cut.
        fail: Share of the requests that are answered with status 503.
        ranges: Whether a transfer can go on in the middle of a file.
        flip: Names of files of which one byte is wrong, each time but the last given number of times.
    """

    cut: float = 0.0
    fail: float = 0.0
    ranges: bool = True
    flip: dict[str, int] = field(default_factory=dict)
    transfers: int = 0
    cuts: int = 0
    failures: int = 0
    sent: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, share: float) -> bool:
        """Whether misfortune strikes."""
        with self.lock:
            return bool(self.rng.random() < share)


@contextmanager
def serving(folder: Path, weather: Weather) -> Iterator[str]:
    """Serve a folder; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            if weather.draw(weather.fail):
                weather.failures += 1
                self.send_error(503)
                return
            data = bytearray(path.read_bytes())
            if weather.flip.get(path.name, 0) > 0:
                weather.flip[path.name] -= 1
                data[len(data) // 2] ^= 0xFF
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted and weather.ranges else 0
            if start >= len(data) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            weather.transfers += 1
            for place in range(start, len(data), PIECE):
                if weather.draw(weather.cut):
                    weather.cuts += 1
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.wfile.write(data[place : place + PIECE])
                weather.sent += len(data[place : place + PIECE])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
