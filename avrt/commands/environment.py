"""`avrt env`: versions and devices of this machine, for a report of a problem; nothing heavy is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import avrt
from avrt.arguments import OneLineErrors
from avrt.cores import cores
from avrt.messages import print_results
from avrt.signatures import module

PACKAGES = (
    "torch", "torchvision", "torchaudio", "transformers", "lightning", "deepspeed", "jsonargparse", "av", "webdataset",
    "peft", "liger-kernel", "openai",
)  # fmt: skip
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "DS_ACCELERATOR")


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt env`.
    """
    OneLineErrors(prog="avrt env", description=__doc__).parse_args(arguments)
    print_environment(PACKAGES)
    print_results("environment", "above", "put it into a report, with the command and its whole output")


def print_environment(packages: Sequence[str]) -> None:
    """Print the versions of Python, this package and others, and the devices.

    Args:
        packages: Names of distributions; one that is not installed is left out.
    """
    rows = {
        "avrt": f"{avrt.__version__} ({Path(avrt.__file__).parent})",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "devices": "; ".join(devices()) or "no NVIDIA GPU",
    }
    for name in packages:
        if (version := _version(name)) is not None:
            rows[name] = version
    if (cuda := _cuda()) is not None:
        rows["torch"] += f" (for CUDA {cuda})"
    rows |= {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:<{width}}{value}")


def devices() -> list[str]:
    """The NVIDIA GPUs with their memory and driver, as `nvidia-smi` lists them; none where it is missing or fails."""
    if shutil.which(_QUERY[0]) is None:
        return []
    try:
        listed = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda() -> str | None:
    """The CUDA release that PyTorch was built for, read from its source, since importing it takes seconds."""
    source = module("torch.version")
    found = source.find("cuda") if source else None
    value = getattr(found[1], "value", None) if found else None
    return str(value.value) if isinstance(value, ast.Constant) and value.value is not None else None


def _processor() -> str:
    memory = ""
    if hasattr(os, "sysconf"):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    return f"{cores()} cores{memory}"
