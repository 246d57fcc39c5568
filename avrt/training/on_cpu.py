"""What a run on the CPU sets in its process: DeepSpeed's accelerator, the number of threads, how memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

from avrt.cores import cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls two of its settings."""
_SMALL = 100e6
"""Parameters of a student whose matrices are too small for many threads."""
_THREADS_OF_SMALL = 2


def use_cpu() -> None:
    """Make DeepSpeed run on the CPU, also where it has found a GPU."""
    from deepspeed.accelerator import get_accelerator, set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    keep_freed_memory()
    if get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())


def threads_wanted() -> int | None:
    """OMP_NUM_THREADS, where it is set; to be asked before Lightning launches, which sets it to all cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def limit_threads(wanted: int | None, ranks: int, parameters: int) -> None:
    """Let PyTorch use as many threads as are wanted; by itself two for a small student, and for others all cores.

    With two a nano student's step of SFT takes 0.7 of the time, one of GRPO 0.8, and the weights are the same to the
    last bit. More were not measured.

    Args:
        wanted: What `threads_wanted` has found.
        ranks: Processes of the run on this machine, which share its cores.
        parameters: Of the student.
    """
    if wanted is None:
        os.environ.pop("OMP_NUM_THREADS", None)  # or a later run in this process would take Lightning's for the user's
    own = max(1, cores() // max(1, ranks))
    torch.set_num_threads(wanted or (min(own, _THREADS_OF_SMALL) if parameters < _SMALL else own))


def keep_freed_memory() -> None:
    """Have the C library keep what tensors of up to 32 MB give back, instead of asking the system for it every time.

    A page that comes from the system is cleared first, which takes as long as the arithmetic on it: 7 % of a nano
    student's training step. Elsewhere than under glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_TRIM_THRESHOLD, 2**30)
