"""A process that has imported everything and forks for each command, which saves nine seconds of work each time.

The fork is the real command in a process of its own, with its own folder, environment, streams and status; only what
importing does is shared. `tests.conftest.avrt` uses it. What a command starts by `sys.executable`, such as further
ranks, is a fork too: that is then `tests/warm_python.py`. Tests that look at how a command starts start it themselves.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import ModuleType

from tests.warm_python import ORPHANED, ask

ROOT = Path(__file__).parents[1]
PYTHON = f'#!/bin/sh\nexec {sys.executable} -IS {ROOT / "tests" / "warm_python.py"} {{address}} {sys.executable} "$@"\n'
# Our commands, and what DeepSpeed and Lightning import when a run is under way: the first alone is two seconds of each.
IMPORTED = (
    "deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.module_inject", "deepspeed.moe.sharded_moe",
    "s3fs", "avrt.commands.ask", "avrt.commands.benchmark", "avrt.commands.doctor",
    "avrt.commands.export", "avrt.commands.report", "avrt.commands.shards", "avrt.commands.traces",
    "avrt.training.grpo_module", "avrt.training.launch",
)  # fmt: skip


class WarmCommands:
    """Commands in forks of one process that is started with the first.

    Args:
        environment: Of the process that imports; None for this one's. Some variables are read by imports.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment
        self._process: subprocess.Popen | None = None
        self._starting = threading.Lock()

    @property
    def python(self) -> str:
        """A program that is Python to who runs it; our own modules are run by forks."""
        return str(self._folder() / "python")

    def run(
        self, arguments: list[str], *, timeout: float, cwd: Path | None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Like `subprocess.run([python, "-m", "avrt", *arguments], capture_output=True, text=True, env=environment)`.

        Raises:
            subprocess.TimeoutExpired: If it takes longer; it is then killed.
        """
        command = ["-m", "avrt", *arguments]
        with (
            tempfile.TemporaryFile("w+", errors="replace") as out,
            tempfile.TemporaryFile("w+", errors="replace") as err,
        ):
            with open(os.devnull) as nothing, socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self._folder() / "socket"))
                request = {
                    "command": command, "cwd": str(cwd or Path.cwd()), "environment": dict(environment or os.environ),
                    "parent": os.getpid(),
                }  # fmt: skip
                ask(connection, request, [stream.fileno() for stream in (nothing, out, err)])
                connection.settimeout(timeout)
                try:
                    status = int(connection.recv(16))
                except TimeoutError:
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(None)
                    connection.recv(16)  # it is gone
                    status = None
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read())
        command.insert(0, sys.executable)
        if status is None:
            raise subprocess.TimeoutExpired(command, timeout, *texts)
        return subprocess.CompletedProcess(command, status, *texts)

    def _folder(self) -> Path:
        """Where the process can be reached, which is then ready."""
        with self._starting:
            if self._process is None:
                self._place = tempfile.TemporaryDirectory(prefix="avrt-warm-")
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", self._place.name], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
                )  # fmt: skip
                atexit.register(self.close)
                assert self._process.stdout is not None
                assert self._process.stdout.readline(), "the process that runs commands has not started"
        return Path(self._place.name)

    def close(self) -> None:
        """End the process and its pipes."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self._place.cleanup()


def serve(folder: Path) -> None:
    """Import everything, then fork for each connection that asks for a command, until whoever started this has gone."""
    for name in IMPORTED:
        importlib.import_module(name)
    # DeepSpeed starts two processes in each run to learn what is the same in all of them.
    processor = importlib.import_module("cpuinfo")
    processor.get_cpu_info = functools.cache(processor.get_cpu_info)
    processor.get_cpu_info()
    gc.freeze()  # or each fork's first collection copies all that was imported
    python = folder / "python"
    python.write_text(PYTHON.format(address=folder / "socket"))
    python.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [], 1)
            if sys.stdin in ready:
                return
            if listener in ready:
                connection, _ = listener.accept()
                if not os.fork():
                    listener.close()
                    _look_after(connection, str(python))
                connection.close()
            while _ended_child():
                pass


def _ended_child() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _look_after(connection: socket.socket, python: str) -> None:
    """Be the parent of one command, and its line to whoever asked for it."""
    header, streams, _, _ = socket.recv_fds(connection, 8, 3)
    data, length = b"", int.from_bytes(header, "big")
    while len(data) < length:
        data += connection.recv(length - len(data))
    here = os.getpid()
    child = os.fork()
    if not child:
        connection.close()
        _run(json.loads(data), streams, python, here)
    for stream in streams:
        os.close(stream)
    over = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([over, connection], [], [])
        if connection in ready:
            told = connection.recv(1)
            if told == bytes([ORPHANED]):
                os._exit(0)  # and the child will see it
            if told:
                os.kill(child, told[0])
                continue
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        try:
            connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        finally:
            os._exit(0)


def _run(request: dict, streams: list[int], python: str, keeper: int) -> None:
    """Be the command, and end with its status."""
    os.setsid()
    os.chdir(request["cwd"])
    tempfile.tempdir = None  # the environment says anew where it is
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Its parent is who asked for it, as long as that has not gone.
    getppid = os.getppid
    os.getppid = lambda: request["parent"] if getppid() == keeper else 1
    sys.executable = python
    base = [folder for folder in sys.path[1:] if folder not in path]
    sys.path[:] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *base]
    status = 1
    try:
        _call(request["command"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _call(command: list[str]) -> None:
    """What Python does with these arguments: `-m` and a module, or a file, and what follows."""
    if command[0] != "-m":
        sys.argv = command
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")
        return
    sys.path[0] = os.getcwd()
    name, *arguments = command[1:]
    if importlib.util.find_spec(name).submodule_search_locations is not None:
        name += ".__main__"
    spec = importlib.util.find_spec(name)
    # Lightning starts further ranks by what this module says that it is.
    module = ModuleType("__main__")
    module.__spec__, module.__file__, module.__builtins__ = spec, spec.origin, __builtins__
    sys.modules["__main__"] = module
    sys.argv = [spec.origin, *arguments]
    exec(spec.loader.get_code(name), module.__dict__)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
