"""Processes that a hostile input may hang or crash: it costs that one input, and the others come out in order."""

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
"""Inputs per process that may be under way or wait for an earlier one, which bounds the memory."""


@dataclass(frozen=True)
class Limits:
    """What one input may cost.

    Attributes:
        seconds: Wall-clock time.
        gigabytes: Memory that a process may hold (Linux).
    """

    seconds: float = 120.0
    gigabytes: float = 4.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        if self.seconds <= 0 or self.gigabytes < 1:
            raise ValueError("needs seconds > 0 and gigabytes >= 1")


class IsolatedPool(Generic[Input, Output]):
    """Map a function over inputs in processes of their own.

    Args:
        function: What to do; importable, since it is pickled. A `BadSampleError` of its becomes that input's output.
        workers: Number of processes.
        limits: What one input may cost before its process is killed.
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
        """Stop every process, whatever it does."""
        for worker in self._workers:
            worker.kill()

    def map(self, inputs: Iterable[Input]) -> Iterator[tuple[Input, Output | BadSampleError]]:
        """Each input with its output or what went wrong, in the order of the inputs, read only a little ahead."""
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
        """Wait until a process answers, dies, or has used up its time."""
        busy = {w.connection: w for w in self._workers if w.ticket is not None and w.connection is not None}
        soonest = min(worker.deadline for worker in busy.values())
        for connection in wait(list(busy), timeout=max(0.0, soonest - time.monotonic())):
            busy[connection].receive()  # type: ignore[index]
        for worker in busy.values():
            if worker.ticket is not None and time.monotonic() > worker.deadline:
                worker.give_up(
                    f"took longer than {self._limits.seconds:g} s", "raise --seconds_per_clip, or the file is hostile"
                )


@dataclass
class _Ticket:
    input: Any
    output: Any = None
    done: bool = field(default=False)

    def close(self, output: Any) -> None:
        self.output, self.done = output, True


class _Worker:
    """One process and the input it is at; it starts on the first one, and anew after each that killed it."""

    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._process: Any = None
        self.connection: Connection | None = None
        self.ticket: _Ticket | None = None
        self.deadline = 0.0

    def start(self, ticket: _Ticket) -> None:
        if self._process is None:
            # not a fork of this process, whose threads might hold locks
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([self._function.__module__])
            self.connection, theirs = context.Pipe()
            arguments = (self._function, theirs, self._limits)
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
            assert self.connection.recv() is None  # it has imported what it needs: only now does its time run
        assert self.connection is not None
        self.ticket, self.deadline = ticket, time.monotonic() + self._limits.seconds
        with contextlib.suppress(OSError):  # a process that died idle shows as closed when its answer is awaited
            self.connection.send(ticket.input)

    def receive(self) -> None:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
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
        except Exception as error:  # whatever a file brings about is that file's fault
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
