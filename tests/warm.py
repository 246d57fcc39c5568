"""A process that has imported everything and forks for each command, which saves nine seconds of work each time.

The fork is the real command in a process of its own, with its own folder, environment and status; only what importing
does is shared. `tests.conftest.avrt` uses it; tests that kill a command, or look at how it starts, start it themselves.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class WarmCommands:
    """Runs `avrt` commands, one after another, in forks of one process that is started with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def run(
        self, arguments: list[str], *, timeout: float, cwd: Path | None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Like `subprocess.run([python, "-m", "avrt", *arguments], capture_output=True, text=True, env=environment)`.

        Raises:
            subprocess.TimeoutExpired: If it takes longer; it is then killed.
        """
        with tempfile.TemporaryDirectory() as folder:
            streams = [str(Path(folder) / name) for name in ("out", "err")]
            request = {
                "arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": dict(environment or os.environ),
                "streams": streams, "timeout": timeout,
            }  # fmt: skip
            status = self._ask(request)
            out, err = (Path(stream).read_text(errors="replace") for stream in streams)
        command = [sys.executable, "-m", "avrt", *arguments]
        if status is None:
            raise subprocess.TimeoutExpired(command, timeout, out, err)
        return subprocess.CompletedProcess(command, status, out, err)

    def _ask(self, request: dict) -> int | None:
        if self._process is None:
            command = [sys.executable, "-m", "tests.warm"]
            root = Path(__file__).parents[1]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
            )
            atexit.register(self._close)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that runs commands has ended"
        return json.loads(line)

    def _close(self) -> None:
        """End the process and its pipes."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Import everything, then fork for each line that asks for a command."""
    import deepspeed  # noqa: F401

    import avrt.commands.benchmark
    import avrt.commands.export
    import avrt.commands.report
    import avrt.commands.shards
    import avrt.commands.traces
    import avrt.training.launch  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(request)
        print(json.dumps(_status(child, request["timeout"])), flush=True)


def _status(child: int, seconds: float) -> int | None:
    """The child's status as `subprocess` tells it; None if it had to be killed for its time."""
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _, status = os.waitpid(child, 0)
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    return None if not left else os.waitstatus_to_exitcode(status)


def _run(request: dict) -> None:
    """Be the command, and end with its status."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(request["streams"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    spec = importlib.util.find_spec("avrt.__main__")
    assert spec is not None
    # Lightning starts further ranks by what this process says that it is.
    sys.modules["__main__"].__spec__ = spec
    sys.argv = [str(spec.origin), *request["arguments"]]
    status = 1
    try:
        from avrt.cli import main

        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
