"""One engine's process and the connection to it: started beside this process, or reached at an address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout import vllm_process
from avrt.rollout.vllm_process.wire import WireError, keep_alive, receive, send

WORKER = Path(vllm_process.__path__[0]) / "worker.py"
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE", "NODE_RANK")
LAUNCHERS = ("TORCHELASTIC_", "GROUP_", "ROLE_")
"""Variables of the trainer's ranks, and how torchrun's begin, which vLLM must not take for its own."""
LONGEST_PAUSE = 30.0


class EngineGoneError(AvrtError):
    """The engine has ended, or its connection has."""


class EngineProcess:
    """An engine that is asked one thing at a time.

    Args:
        options: Where it is.
        address: Which of the options' addresses, if there are any.
        gpu: Index of this process' GPU among those that it sees; by default PyTorch's current one, if there is any.

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, address: int = 0, gpu: int | None = None) -> None:
        if (options.python is None) == (not options.addresses):
            raise AvrtError("set one of python and addresses", where="model.vllm")
        self._options = options
        self._address = address
        self._gpu = gpu
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None
        self._asked = ""

    @property
    def pid(self) -> int | None:
        """Its process id, if it was started here."""
        return None if self._process is None else self._process.pid

    @property
    def asked(self) -> str:
        """What it is still working on; empty if on nothing."""
        return self._asked

    def open(self, model: str, settings: dict[str, Any], family: EngineFacts, *, patience: float = 0) -> dict[str, Any]:
        """Start or reach the engine and have it load a model; returns what it says of itself.

        Args:
            model: The model, as the engine sees it.
            settings: Arguments of `vllm.LLM`.
            family: What it has to know of the model's family.
            patience: For how many seconds to try again where it cannot be reached.

        Raises:
            AvrtError: If that fails; the engine's own output goes to this process' standard error.
        """
        address = self._options.addresses[self._address] if self._options.addresses else self._launch()
        self._connection = _connect(address, patience)
        self._connection.settimeout(self._options.start_seconds)
        begun = time.monotonic()
        try:
            said = self.ask({"do": "start", "model": model, "settings": settings, "family": asdict(family)})[0]
        except EngineGoneError:
            if time.monotonic() - begun < self._options.start_seconds:
                raise
            raise self._too_slow() from None
        self._connection.settimeout(None)
        return said

    def ask(
        self, message: dict[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Ask something and wait for the reply.

        Raises:
            EngineGoneError: If the engine is gone.
            AvrtError: If it answers with an error.
        """
        self.begin(message, tensors)
        return self.finish()

    def begin(self, message: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Ask something; the engine works on it while this process does other things, until `finish`.

        Raises:
            EngineGoneError: If the engine is gone.
        """
        if self._connection is None:
            raise RuntimeError("the engine has not been started")
        if self._asked:
            raise RuntimeError(f"the engine is still being asked to {self._asked}")
        try:
            send(self._connection, message, tensors)
        except (WireError, OSError) as error:
            raise self._gone(error) from None
        self._asked = message["do"]

    def finish(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Wait for the reply to what was asked last.

        Raises:
            EngineGoneError: If the engine is gone.
            AvrtError: If it answers with an error.
        """
        if self._connection is None or not self._asked:
            raise RuntimeError("the engine has not been asked anything")
        asked, self._asked = self._asked, ""
        try:
            reply, found = receive(self._connection)
        except (WireError, OSError) as error:
            raise self._gone(error) from None
        if "lost" in reply:
            raise EngineGoneError(f"failed to {asked}: {reply['lost']}", where="vLLM engine", remedy="see its output")
        if "error" in reply:
            raise AvrtError(f"{asked}: {reply['error']}", where="vLLM engine")
        return reply, found

    def close(self, *, wait: float = 10) -> None:
        """End the connection, and the engine if it was started here.

        Args:
            wait: Seconds that the engine is given to end by itself.
        """
        self._asked = ""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(wait)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def _gone(self, error: Exception) -> EngineGoneError:
        """What has become of it, as far as is known here."""
        what = str(error)
        if self._process is not None:
            try:
                status = self._process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            else:
                name = signal.Signals(-status).name if -status in [*signal.Signals] else f"status {status}"
                what = f"ended by {name}"
        return EngineGoneError(what, where="vLLM engine", remedy="see its output; resume with --ckpt_path")

    def _too_slow(self) -> EngineGoneError:
        return EngineGoneError(
            f"has not started within {self._options.start_seconds:g} seconds",
            where="vLLM engine",
            remedy="raise model.vllm.start_seconds",
        )

    def _launch(self) -> str:
        """Start the worker beside this process; returns the address at which it listens."""
        python = str(self._options.python)
        left_out = ("PYTHONPATH", "PYTHONHOME", *LAUNCH)
        environment = {key: value for key, value in os.environ.items()
                       if key not in left_out and not key.startswith(LAUNCHERS)}  # fmt: skip
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
        begun = time.monotonic()
        end = threading.Timer(self._options.start_seconds, self._process.kill)
        end.start()
        try:
            for line in self._process.stdout:
                if line.startswith("listening on "):
                    return line.split()[-1]
        finally:
            end.cancel()
        if time.monotonic() - begun >= self._options.start_seconds:
            raise self._too_slow()
        raise AvrtError("ended before it listened, see above", where=python, remedy="does it have vllm?")


def _connect(address: str, patience: float) -> socket.socket:
    """A connection to an address, tried again with growing pauses for some seconds."""
    host, _, port = address.rpartition(":")
    until, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            connection = socket.create_connection((host, int(port)), timeout=30)
        except (OSError, ValueError) as error:
            if time.monotonic() + pause > until:
                raise AvrtError(f"cannot be reached: {error}", where=address, remedy="is the worker running?") from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            keep_alive(connection)
            return connection


def visible_device(visible: str | None, index: int) -> str:
    """One GPU in the form of `CUDA_VISIBLE_DEVICES`.

    Args:
        visible: The variable as it is for this process, whose GPUs may be some of the machine's; None if it is not set.
        index: The GPU's index among those.
    """
    names = [name.strip() for name in visible.split(",")] if visible else []
    return names[index] if index < len(names) else str(index)
