"""A pool of processes in which an input that hangs or crashes costs only itself; outputs keep the inputs' order."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from avrt.errors import AvrtError, BadSampleError

Input = TypeVar("Input")
Output = TypeVar("Output")

LOOK_AHEAD = 3
"""Most inputs per process that are in work or wait for an earlier one, which bounds the memory."""


@dataclass(frozen=True)
class Limits:
    """Limits on what one input costs.

    Attributes:
        seconds: Wall-clock time.
        gigabytes: Memory of a process (Linux only).
    """

    seconds: float = 120.0
    gigabytes: float = 4.0

    def __post_init__(self) -> None:
        """Refuse limits that no input can keep."""
        if self.seconds <= 0 or self.gigabytes < 1:
            raise ValueError("needs seconds > 0 and gigabytes >= 1")


class IsolatedPool(Generic[Input, Output]):
    """Map a function over inputs in separate processes.

    Args:
        function: An importable function, since it is pickled. If it raises a `BadSampleError`, that is the output.
        workers: Number of processes.
        limits: Limits beyond which an input's process is killed.
    """

    def __init__(self, function: Callable[[Input], Output], workers: int, limits: Limits) -> None:
        if workers < 1:
            raise AvrtError(f"needs at least one process, got {workers}", where="workers")
        self._function = function
        self._limits = limits
        self._workers = [_Worker(function, limits) for _ in range(workers)]

    def __enter__(self) -> IsolatedPool[Input, Output]:
        """Start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill every process."""
        for worker in self._workers:
            worker.kill()

    def map(self, inputs: Iterable[Input]) -> Iterator[tuple[Input, Output | BadSampleError]]:
        """Yield each input with its output or its error, in order; inputs are read only a little ahead."""
        source = iter(inputs)
        waiting: deque[_Ticket] = deque()
        drained = False
        while True:
            while not drained and len(waiting) < LOOK_AHEAD * len(self._workers):
                idle = next((w for w in self._workers if w.ticket is None), None)
                if idle is None:
                    break
                try:
                    ticket = _Ticket(next(source))
                except StopIteration:
                    drained = True
                    break
                waiting.append(ticket)
                idle.start(ticket)
            if waiting and waiting[0].done:
                ticket = waiting.popleft()
                yield ticket.input, ticket.output
            elif waiting:
                self._collect()
            elif drained:
                return

    def _collect(self) -> None:
        """Wait until a process answers, dies, or runs out of time."""
        busy = {w.connection: w for w in self._workers if w.ticket is not None and w.connection is not None}
        soonest = min(worker.deadline for worker in busy.values())
        for connection in wait(list(busy), timeout=max(0.0, soonest - time.monotonic())):
            busy[connection].receive()  # type: ignore[index]
        for worker in busy.values():
            if worker.ticket is not None and time.monotonic() > worker.deadline:
                worker.give_up(
                    f"took longer than {self._limits.seconds:g} s",
                    "raise --seconds_per_clip unless the file is damaged",
                )


@dataclass
class _Ticket:
    """An input, and its output once that is there."""

    input: Any
    output: Any = None
    done: bool = field(default=False)

    def close(self, output: Any) -> None:
        self.output, self.done = output, True


class _Worker:
    """One process and its current input; the process starts with its first input, and again after it was killed."""

    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._process: Any = None
        self.connection: Connection | None = None
        self.ticket: _Ticket | None = None
        self.deadline = 0.0

    def start(self, ticket: _Ticket) -> None:
        """Send an input, to a new process if there is none."""
        if self._process is None:
            # a fork of this process could inherit locks that its threads hold
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([self._function.__module__])
            self.connection, theirs = context.Pipe()
            arguments = (self._function, theirs, self._limits)
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
            assert self.connection.recv() is None  # after its imports, which do not count as the input's time
        assert self.connection is not None
        self.ticket, self.deadline = ticket, time.monotonic() + self._limits.seconds
        with contextlib.suppress(OSError):  # if the process died while idle, `receive` finds out
            self.connection.send(ticket.input)

    def receive(self) -> None:
        """Take the output that the process sent, or note its death."""
        assert self.ticket is not None
        assert self.connection is not None
        try:
            output = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self.give_up(_cause_of_death(self._process.exitcode))
            return
        self.ticket.close(output)
        self.ticket = None

    def give_up(self, why: str, remedy: str = "the file is damaged or hostile") -> None:
        assert self.ticket is not None
        self.kill()
        self.ticket.close(BadSampleError(f"decoding {why}", remedy=remedy))
        self.ticket = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"crashed its process ({signal.Signals(-exitcode).name})"
    return f"ended its process (status {exitcode})"


def _serve(function: Callable[[Any], Any], connection: Connection, limits: Limits) -> None:
    """Run in a process: set its limits, then answer inputs until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (int(limits.gigabytes * 2**30),) * 2)
    import torch

    torch.set_num_threads(1)
    connection.send(None)
    while True:
        try:
            value = connection.recv()
        except (EOFError, OSError):
            return
        try:
            output = function(value)
        except BadSampleError as error:
            output = error
        except Exception as error:  # the libraries that read files raise anything
            out_of_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
            output = (
                BadSampleError(f"decoding needs more than {limits.gigabytes:g} GB", remedy="raise --gigabytes_per_clip")
                if out_of_memory
                else BadSampleError(f"decoding failed: {error!r}")
            )
        try:
            connection.send(output)
        except (BrokenPipeError, ConnectionResetError):
            return
