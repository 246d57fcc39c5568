"""A Python for `vllm.python` whose package vLLM is the stand-in beside this file, and what its engines noted."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "0.0.stand-in"


@dataclass
class StandIn:
    """Where it is, and where its engines write."""

    python: Path
    log: Path

    def calls(self) -> list[dict[str, Any]]:
        """What the engines were asked so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def names(self) -> list[str]:
        """The calls' names, in order."""
        return [call["call"] for call in self.calls()]

    def gone(self) -> bool:
        """Whether all engines that were started have ended, or end within seconds."""
        for pid in {call["pid"] for call in self.calls()}:
            deadline = time.monotonic() + 20
            while _alive(pid):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.1)
        return True


def stand_in(folder: Path, patch: pytest.MonkeyPatch, interpreter: str = sys.executable) -> StandIn:
    """Make one; its engines are told by the environment where to write.

    Args:
        folder: For its files.
        patch: Changes the environment.
        interpreter: What runs it; that of `tests.warm` starts sooner, where engines are not killed from outside.
    """
    python, log = folder / "python", folder / "calls.jsonl"
    path = f"{Path(__file__).parent / 'stand_in'}:{ROOT}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {interpreter} "$@"\n')
    python.chmod(0o755)
    patch.setenv("STAND_IN_LOG", str(log))
    return StandIn(python, log)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())
