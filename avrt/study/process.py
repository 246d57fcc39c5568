"""Processes that run commands of a study: forks of one that has imported everything, 6 to 10 seconds of work each time.

Each command is what a user would type, in a process with its own streams, arguments and status. It must not use a GPU
before the fork: what is imported asks for devices without that.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

IMPORTED = "avrt.study.imported"


@dataclass(frozen=True)
class Told:
    """What a process tells of its commands.

    Attributes:
        number: Which of them it is.
        status: Its status; None when it begins.
        seconds: How long it took.
        cpu_seconds: Its processor time, with that of processes that it started and that have ended.
    """

    number: int
    status: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Processes:
    """Starts processes as forks; the process that they are forks of starts with the first.

    Args:
        lock: A file that each process locks, in common with others, as long as it or one that it has started runs.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._threads = os.environ.get("OMP_NUM_THREADS")
        # Read when they are imported: one thread each, and devices are counted without using them.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([IMPORTED])

    def start(
        self, commands: Sequence[tuple[str, ...]], logs: Sequence[Path], *, alone: bool = False
    ) -> tuple[ForkServerProcess, Connection]:
        """Run commands one after another, to the first that fails, in one process.

        Args:
            commands: What follows `avrt` in each.
            logs: The files that their output is added to.
            alone: They choose their number of threads, as without a study; off: one. OMP_NUM_THREADS overrules both.

        Returns:
            The process, and what it says: `Told` at begin and end of each command.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=run_commands,
            args=(list(commands), list(logs), self._lock, theirs, self._threads or (None if alone else "1")),
            daemon=False,
        )
        process.start()
        theirs.close()
        return process, ours


def run_commands(
    commands: list[tuple[str, ...]], logs: list[Path], lock: Path, connection: Connection, threads: str | None
) -> None:
    """Be the process that runs commands, and end with the status of the last.

    Args:
        commands: What follows `avrt` in each.
        logs: The files that their output is added to.
        lock: The file that it locks.
        connection: Where it tells.
        threads: What OMP_NUM_THREADS is to be for them; None where it is not to be set.
    """
    if threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = threads
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(held, fcntl.LOCK_SH)
    os.setsid()  # Ctrl-C reaches the study alone, which tells its processes once
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # of data loaders: the platform's, as in any other process
    tempfile.tempdir = None
    status = 0
    for number, (command, log) in enumerate(zip(commands, logs, strict=True)):
        status = _run(command, log, connection, number)
        if status:
            break
    connection.close()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    os._exit(status)


def _end_with(parent: int) -> None:
    """End this process and those that it started when the study has ended, even if that was killed."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)


def _run(command: tuple[str, ...], log: Path, connection: Connection, number: int) -> int:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, stream), (2, stream)):
        os.dup2(source, target)
    os.close(nothing)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, errors="replace", closefd=False) for n in (1, 2))
    connection.send(Told(number))
    begun, cpu = time.perf_counter(), _cpu_seconds()
    sys.argv = ["avrt", *command]
    status = 1
    try:
        # As `python -m avrt` would; Lightning starts further ranks by what `__main__` says that it is.
        runpy.run_module("avrt", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.close(stream)
    connection.send(Told(number, status, time.perf_counter() - begun, _cpu_seconds() - cpu))
    return status


def _cpu_seconds() -> float:
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in usage)
