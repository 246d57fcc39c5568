"""The death of a process or a node, told to all others in about a minute, however they are kept waiting for it.

A collective waits half an hour for a process that is gone, and never says which one. So every process of a run on
several nodes keeps a connection to the first one. The system closes it when a process ends, and finds out by itself
when a machine is switched off.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any

from avrt.errors import AvrtError

GRACE = 20.0
"""Seconds in which a process that was told of a death may end by itself, before it is ended."""
REMEDY = "see its log; all that was saved is there: go on with --ckpt_path last"
_LONGEST = 4096
_CONNECT, _VISIT, _IDLE, _PROBES, _BETWEEN, _HANG = 60.0, 5.0, 20, 3, 10, 30
_EVERYWHERE = ("", "::", "0.0.0.0")
_current: Lifeline | None = None


class LostError(AvrtError):
    """Another process of the run is gone.

    Its `status` is 75 (EX_TEMPFAIL) where that was silent, so that the same command may well succeed again. Where the
    other one has told an error, it is that one's: what ends one process for good ends the run for good.
    """

    status = 75


@dataclass(frozen=True)
class Loss:
    """Who is gone.

    Attributes:
        what: Its name, and why.
        status: What this process ends with therefore.
    """

    what: str
    status: int = LostError.status

    def error(self) -> LostError:
        """What to raise."""
        error = LostError(self.what, remedy=REMEDY)
        error.status = self.status
        return error


@dataclass(frozen=True)
class ListenAddress:
    """Where the first process listens.

    Attributes:
        address: Its address, as the others reach it.
        port: The port.
        key: What a connection has to begin with.
    """

    address: str
    port: int
    key: str


class Lifeline:
    """One process's end of the connections.

    Args:
        world_size: Number of processes.
        name: What this process is called in messages of others.
        first: What the first process is called.
    """

    def __init__(self, world_size: int, name: str, first: str) -> None:
        self._world_size, self._name, self._first = world_size, name, first
        self._server: socket.socket | None = None
        self._streams: list[socket.socket] = []
        self._names: dict[socket.socket, str] = {}
        self._ended, self._told = threading.Event(), threading.Event()
        self._watch: threading.Thread | None = None
        self._loss = Loss("")

    def listen(self, address: str) -> ListenAddress:
        """Begin to listen; for the first process.

        Args:
            address: Its address, as the others reach it; if this machine has it, nothing else is listened to.
        """
        self._server = _listen(address)
        host, port, *_ = self._server.getsockname()
        self._key = secrets.token_hex(16)
        return ListenAddress(address if host in _EVERYWHERE else host, port, self._key)

    def open(self, listening: ListenAddress) -> None:
        """Connect to the first process, or take the others in, and begin to watch.

        Raises:
            OSError: If a connection cannot be made within a minute.
        """
        if self._server is None:
            stream = socket.create_connection((listening.address, listening.port), timeout=_CONNECT)
            _keep_alive(stream)
            _send(stream, {"key": listening.key, "name": self._name})
            self._streams, self._names = [stream], {stream: self._first}
        else:
            self._server.settimeout(_CONNECT)
            while len(self._streams) < self._world_size - 1:
                self._take_in(self._server.accept()[0])
            self._server.close()
        global _current
        _current = self
        self._watch = threading.Thread(target=self._run, name="lifeline", daemon=True)
        self._watch.start()

    def loss(self, seconds: float) -> Loss | None:
        """Who is gone and why, waiting so long for the news; None if nobody is."""
        return self._loss if self._told.wait(seconds) else None

    def close(self, error: BaseException | None) -> None:
        """Say goodbye, or why this process ends.

        Args:
            error: What ends it; None if nothing is wrong.
        """
        global _current
        _current = None
        self._ended.set()
        if not self._told.is_set():
            said: dict[str, Any] = {"bye": True}
            if error is not None:
                said = {"lost": f"{self._name}: {_in_one_line(error)}", "status": _status(error)}
            for stream in self._streams:
                _send(stream, said)
        elif threading.current_thread() is threading.main_thread():
            # Communication with a process that is gone can hang the interpreter's end.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_HANG)
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_WR)

    def _take_in(self, stream: socket.socket) -> None:
        stream.settimeout(_VISIT)  # a stranger may keep silent, and the others wait
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(stream.makefile("rb").readline(_LONGEST))
            if isinstance(said, dict) and secrets.compare_digest(str(said.get("key")), self._key):
                _keep_alive(stream)
                self._streams.append(stream)
                self._names[stream] = str(said.get("name"))
                return
        stream.close()

    def _run(self) -> None:
        """Watch until every other process has said goodbye, or one is lost."""
        waiting: dict[socket.socket, bytes] = dict.fromkeys(self._streams, b"")
        with selectors.DefaultSelector() as selector:
            for stream in self._streams:
                stream.setblocking(True)
                selector.register(stream, selectors.EVENT_READ, stream)
            while waiting:
                for key, _ in selector.select():
                    stream = key.data
                    try:
                        received = stream.recv(_LONGEST)
                    except OSError as error:
                        why = error.strerror or error
                        self._lose(Loss(f"{self._names[stream]} does not answer any more ({why})"), stream)
                        return
                    waiting[stream] += received
                    line, end, waiting[stream] = waiting[stream].partition(b"\n")
                    if not end and received:
                        waiting[stream] = line
                        continue
                    said = _read(line) if end else {}
                    if "bye" not in said:
                        what = said.get("lost") or f"{self._names[stream]} has ended without a word"
                        self._lose(Loss(what, said.get("status", LostError.status)), stream)
                        return
                    selector.unregister(stream)
                    del waiting[stream]

    def _lose(self, loss: Loss, by: socket.socket) -> None:
        """Tell everyone, and end this process unless it ends by itself."""
        if self._ended.is_set():
            return
        self._loss = loss
        if self._server is not None:
            for stream in self._streams:
                if stream is not by:
                    _send(stream, {"lost": loss.what, "status": loss.status})
        self._told.set()
        if not self._ended.wait(GRACE):
            sys.stderr.write(f"avrt: error: {loss.error()}\n")
            sys.stderr.flush()
            os._exit(loss.status)


def lost(error: BaseException) -> LostError | None:
    """What an error means where another process is gone; None where none is.

    Args:
        error: Of this process. Communication fails when the other end closes, a moment before one knows whose it was.
            What this process says in words of its own stands.
    """
    if _current is None or isinstance(error, AvrtError):
        return None
    loss = _current.loss(3.0 if isinstance(error, RuntimeError) else 0.0)
    return None if loss is None else loss.error()


def close_lifeline(error: BaseException | None) -> None:
    """End this process's lifeline, if it has one; see `Lifeline.close`."""
    if _current is not None:
        _current.close(error)


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, AvrtError) else f"{type(error).__name__}: {text}"[:500]


def _status(error: BaseException) -> int:
    """What a process ends with that met an error: see `avrt.cli.main`, and Python for what that leaves alone."""
    if isinstance(error, AvrtError):
        return error.status
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) and error.code else 1
    return AvrtError.status if isinstance(error, OSError) else 1


def _listen(address: str) -> socket.socket:
    """Listen at an address if it is one of this machine's, else, as behind a translated one, at all that it has.

    A name that stands for the loopback here, as a machine's own does under some systems, stands for another elsewhere.
    """
    with contextlib.suppress(OSError):
        for family, _, _, _, (host, *_) in socket.getaddrinfo(address, None, type=socket.SOCK_STREAM):
            if host == address or not ipaddress.ip_address(str(host).partition("%")[0]).is_loopback:
                return socket.create_server((str(host), 0), family=family, backlog=1024)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=both)


def _keep_alive(stream: socket.socket) -> None:
    """Have the system ask whether the other machine is still there."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _BETWEEN), ("TCP_KEEPCNT", _PROBES)):
        if (option := getattr(socket, name, None)) is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


def _send(stream: socket.socket, said: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        stream.sendall(json.dumps(said).encode() + b"\n")


def _read(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
