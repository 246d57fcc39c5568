"""What DeepSpeed compiles at its first use: the compiler that it needs, and how long one has to wait."""

from __future__ import annotations

import os
import shutil
import sysconfig

from lightning.pytorch.utilities import rank_zero_info

from avrt.errors import AvrtError
from avrt.training.deepspeed_internals import CPU_ADAM, SHARED_MEMORY, is_built, leave_shared_memory_out

SECONDS = 90
"""About how long both take together on one core."""


def interpreter_on_path() -> None:
    """Put the folder of the interpreter first on PATH, where the environment has its ninja.

    Without it a command that is called by its path, in a shell that is not activated, finds none; and one ninja throws
    away what another has built, which is then compiled anew.
    """
    scripts, path = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != scripts:
        os.environ["PATH"] = os.pathsep.join([scripts, path])


def check_compilers(*, offload: bool, on_cpu: bool, alone: bool = False) -> None:
    """Refuse a run whose optimizer cannot be compiled, and say so where one has to wait for it.

    Args:
        offload: Whether the optimizer runs on the CPU.
        on_cpu: Whether the processes talk to each other over the CPU; that works without its kernel too.
        alone: Whether there is one process, which talks to nobody.

    Raises:
        AvrtError: If a compiler is missing.
    """
    interpreter_on_path()
    if alone:
        leave_shared_memory_out()
        on_cpu = False
    needed = [name for name, uses in ((CPU_ADAM, offload), (SHARED_MEMORY, on_cpu)) if uses and not is_built(name)]
    has_ninja = shutil.which("ninja") is not None
    can_compile = has_ninja and shutil.which(os.environ.get("CXX", "c++")) is not None
    if (CPU_ADAM in needed and not can_compile) or (offload and not has_ninja):
        package = "a C++ compiler, e.g. apt-get install g++" if has_ninja else "ninja: pip install ninja"
        raise AvrtError(
            "DeepSpeed's Adam for the CPU has to be compiled once, which cannot be done here",
            where="trainer.strategy.offload_optimizer",
            remedy=f"install {package}; or set --trainer.strategy.offload_optimizer false, or --trainer.strategy auto",
        )
    if needed and can_compile:
        what = "Adam for the CPU" if CPU_ADAM in needed else "communication on the CPU"
        rank_zero_info(f"compiling DeepSpeed's {what}, about {SECONDS} s, once in this environment")
    elif on_cpu and not (has_ninja and (can_compile or SHARED_MEMORY not in needed)):
        leave_shared_memory_out()
