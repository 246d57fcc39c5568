"""One engine's process and the connection to it: started beside this process, or reached at an address."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout import vllm_process
from avrt.rollout.vllm_process.wire import WireError, receive, send

WORKER = Path(vllm_process.__path__[0]) / "worker.py"
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE", "NODE_RANK")
"""Variables of the trainer's ranks, which vLLM must not take for its own."""


class EngineProcess:
    """An engine that is asked one thing at a time.

    Args:
        options: Where it is.
        rank: Number of this process.
        gpu: Index of this process' GPU among those that it sees; by default PyTorch's current one, if there is any.

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, rank: int = 0, gpu: int | None = None) -> None:
        if (options.python is None) == (not options.addresses):
            raise AvrtError("set one of python and addresses", where="model.vllm")
        if options.addresses and rank >= len(options.addresses):
            raise AvrtError(
                f"{len(options.addresses)} addresses are too few", where="model.vllm.addresses", remedy="one per rank"
            )
        self._options = options
        self._rank = rank
        self._gpu = gpu
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None
        self._asked = ""

    @property
    def pid(self) -> int | None:
        """Its process id, if it was started here."""
        return None if self._process is None else self._process.pid

    def open(self, model: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Start or reach the engine and have it load a model; returns what it says of itself.

        Raises:
            AvrtError: If that fails; the engine's own output goes to this process' standard error.
        """
        address = self._options.addresses[self._rank] if self._options.addresses else self._launch()
        host, _, port = address.rpartition(":")
        try:
            self._connection = socket.create_connection((host, int(port)), timeout=30)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise AvrtError(f"cannot be reached: {error}", where=address, remedy="is the worker running?") from None
        self._connection.settimeout(self._options.start_seconds)
        said = self.ask({"do": "start", "model": model, "settings": settings})[0]
        self._connection.settimeout(None)
        return said

    def ask(
        self, message: dict[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Ask something and wait for the reply.

        Raises:
            AvrtError: If the engine is gone, or answers with an error.
        """
        self.begin(message, tensors)
        return self.finish()

    def begin(self, message: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Ask something; the engine works on it while this process does other things, until `finish`.

        Raises:
            AvrtError: If the engine is gone.
        """
        if self._connection is None:
            raise RuntimeError("the engine has not been started")
        if self._asked:
            raise RuntimeError(f"the engine is still being asked to {self._asked}")
        try:
            send(self._connection, message, tensors)
        except (WireError, OSError) as error:
            raise _gone(error) from None
        self._asked = message["do"]

    def finish(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Wait for the reply to what was asked last.

        Raises:
            AvrtError: If the engine is gone, or answers with an error.
        """
        if self._connection is None or not self._asked:
            raise RuntimeError("the engine has not been asked anything")
        asked, self._asked = self._asked, ""
        try:
            reply, found = receive(self._connection)
        except (WireError, OSError) as error:
            raise _gone(error) from None
        if "error" in reply:
            raise AvrtError(f"{asked}: {reply['error']}", where="vLLM engine")
        return reply, found

    def close(self) -> None:
        """End the connection, and the engine if it was started here."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None

    def _launch(self) -> str:
        """Start the worker beside this process; returns the address at which it listens."""
        python = str(self._options.python)
        left_out = ("PYTHONPATH", "PYTHONHOME", *LAUNCH)
        environment = {key: value for key, value in os.environ.items() if key not in left_out}
        gpu = torch.cuda.current_device() if self._gpu is None and torch.cuda.is_available() else self._gpu
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(environment.get("CUDA_VISIBLE_DEVICES"), gpu)
        try:
            # A group of its own: Ctrl-C is for the trainer, whose step still needs answers before it is saved.
            self._process = subprocess.Popen(
                [python, str(WORKER), "--once"], stdout=subprocess.PIPE, text=True, env=environment, process_group=0
            )
        except OSError as error:
            raise AvrtError(f"cannot be run: {error}", where=python, remedy="set model.vllm.python") from None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("listening on "):
                return line.split()[-1]
        raise AvrtError("ended before it listened, see above", where=python, remedy="does it have vllm?")


def _gone(error: Exception) -> AvrtError:
    return AvrtError(str(error), where="vLLM engine", remedy="see its output; resume with --ckpt_path")


def visible_device(visible: str | None, index: int) -> str:
    """One GPU in the form of `CUDA_VISIBLE_DEVICES`.

    Args:
        visible: The variable as it is for this process, whose GPUs may be some of the machine's; None if it is not set.
        index: The GPU's index among those.
    """
    names = [name.strip() for name in visible.split(",")] if visible else []
    return names[index] if index < len(names) else str(index)
